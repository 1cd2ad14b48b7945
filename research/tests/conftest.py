import pytest


@pytest.fixture(scope="module")
def small_networks():
    """Has "mobilenet_v3_small" be a small body: what is tested here are runs, not networks."""
    from sample_networks import small_body

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("train.networks.network.MobileNetV3Small", small_body)
        yield
