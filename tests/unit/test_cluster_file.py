"""`cluster.yaml` is valid by Ray's own schema, offline."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.mark.filterwarnings("ignore")
def test_the_cluster_file_passes_rays_own_validation():
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load(CLUSTER.read_text())
    validate_config(fillout_defaults(config))


@pytest.mark.filterwarnings("ignore")
def test_a_misspelt_key_of_a_node_type_would_be_found():
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load(CLUSTER.read_text())
    config["available_node_types"]["head"]["resource"] = {"CPU": 4}
    with pytest.raises(ValidationError):
        validate_config(fillout_defaults(config))
