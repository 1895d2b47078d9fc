"""The derivative engine: values with derivative channels that go through networks as arrays would."""
