import itertools
import math

import pytest
import torch

from train.loop.losses import arcface_logits, cross_entropy
from train.networks.head import Head, to_linear

COMBINATIONS = list(itertools.product(["linear", "cosine"], [False, True], [False, True]))


def random_head(kind="cosine", neck=True, distill=True, num_features=32, num_classes=6, **options):
    """In evaluation mode, every weight and statistic random."""
    torch.manual_seed(0)
    head = Head(num_features, num_classes, kind=kind, neck=neck, distill=distill, **options).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        if neck:
            head.neck.running_mean.normal_()
            head.neck.running_var.uniform_(0.2, 3)
    return head


def pooled(num_images, num_features=32):
    return torch.randn(num_images, num_features, generator=torch.Generator().manual_seed(1)).relu() * 2


def naive_cosine(x, w):
    dot = sum(a * b for a, b in zip(x, w, strict=True))
    return dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in w))


@pytest.mark.parametrize("kind, neck, distill", COMBINATIONS)
def test_one_layer_decides_alike(kind, neck, distill):
    head = random_head(kind, neck, distill).double()
    features = pooled(20_000).double()
    with torch.no_grad():
        expected, actual = head(features), to_linear(head)(features)
        single = to_linear(head.float())(features.float()).double()
        head.double()
        if kind == "cosine":  # the layer's logits carry the feature's length
            after_neck = head.neck(features) if neck else features
            expected = expected * after_neck.norm(dim=1, keepdim=True)
    assert torch.allclose(actual, expected, rtol=1e-11, atol=1e-11)
    assert torch.equal(actual.argmax(1), expected.argmax(1))
    # In float32 a tie within rounding may go either way, and nothing else may.
    top = expected.topk(2, dim=1).values
    is_tie = top[:, 0] - top[:, 1] < 1e-5 * expected.abs().amax(1)
    assert is_tie.sum() < 10
    assert torch.equal(single.argmax(1)[~is_tie], expected.argmax(1)[~is_tie])
    assert expected.argmax(1).unique().numel() > 2


def test_one_layer_is_a_copy():
    head = random_head()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    linear = to_linear(head)
    assert (linear.in_features, linear.out_features, linear.weight.dtype) == (32, 6, torch.float32)
    assert to_linear(head.double()).weight.dtype == torch.float64
    linear.weight.data.zero_()
    assert all(torch.equal(before[name].to(tensor), tensor) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_cosines_are_the_naive_ones(dtype, tolerance):
    head = random_head(num_features=5, num_classes=3, scale=7.0).to(dtype)
    features = pooled(4, 5).to(dtype)
    bn = head.neck
    output = head.classify(features)
    for n, x in enumerate(features.tolist()):
        z = [
            (v - mean) / math.sqrt(variance + bn.eps) * gain + bias
            for v, mean, variance, gain, bias in zip(
                x, *(t.tolist() for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)), strict=True
            )
        ]
        for c in range(3):
            main = naive_cosine(z, head.fc.weight[c].tolist())
            distill = naive_cosine(z, head.distill_fc.weight[c].tolist())
            assert output.logits[n, c].item() == pytest.approx(main, abs=tolerance)
            assert output.distill[n, c].item() == pytest.approx(distill, abs=tolerance)
            assert head(features)[n, c].item() == pytest.approx(7 * (main + distill), abs=20 * tolerance)


def test_a_linear_head_is_a_linear_layer():
    head = random_head("linear", neck=False, distill=False, scale=7.0)
    features = pooled(3)
    output = head.classify(features)
    assert output.distill is None
    assert torch.allclose(output.logits, features @ head.fc.weight.T + head.fc.bias, atol=1e-5)
    assert torch.equal(head(features), output.logits)


def test_dropout_comes_after_normalising():
    torch.manual_seed(0)
    head = Head(4, 4, kind="cosine", dropout=0.5)
    with torch.no_grad():
        head.fc.weight.copy_(torch.eye(4))  # so that the cosines are the dropped features themselves
    features = torch.tensor([[3.0, 4.0, 0.0, 0.0]]).expand(200, 4).clone().requires_grad_()
    cosines = head.classify(features).logits
    assert cosines[:, 0].unique().tolist() == [0.0, pytest.approx(1 - 1e-7)]  # 0.6 * 2, clamped
    assert torch.equal(head.eval().classify(features).logits[0], torch.tensor([0.6, 0.8, 0.0, 0.0]))
    cosines[:, :2].sum().backward()
    assert features.grad.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_stay_finite_where_a_feature_meets_a_class(dtype, sign):
    head = random_head(neck=False, distill=False).to(dtype)
    features = (sign * head.fc.weight.detach()).requires_grad_()
    labels = torch.arange(6)
    cosines = head.classify(features).logits
    assert cosines.abs().max() < 1
    assert cosines.diagonal().mul(sign).min() > 1 - 2e-7
    cross_entropy(arcface_logits(cosines, labels, margin=0.35, scale=64.0), labels).backward()
    for grad in (features.grad, head.fc.weight.grad):
        assert grad.isfinite().all() and grad.abs().max() < 100


@pytest.mark.parametrize("kind, neck, distill", COMBINATIONS)
def test_autocast_changes_nothing(kind, neck, distill):
    head = random_head(kind, neck, distill)
    features = pooled(50).bfloat16()  # what a body under autocast hands over
    with torch.no_grad():
        expected = head(features.float())
        with torch.autocast("cpu", torch.bfloat16):
            actual = head(features)
            double = head.double()(features.double())
    assert actual.dtype == torch.float32 and torch.equal(actual, expected)
    assert double.dtype == torch.float64 and torch.allclose(double, expected.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_gradients_are_right(kind):
    head = random_head(kind, num_features=5, num_classes=3, scale=4.0).double().train()
    assert torch.autograd.gradcheck(head, torch.randn(4, 5, dtype=torch.float64, requires_grad=True))


def test_the_necks_bias_stays_0():
    head = Head(4, 3, kind="cosine", neck=True)
    head(torch.randn(8, 4))[:, 0].sum().backward()
    assert head.neck.bias.eq(0).all() and head.neck.bias.grad is None
    assert head.neck.weight.grad.ne(0).all()


def test_names_of_the_weights():
    assert list(Head(4, 3).state_dict()) == ["fc.weight", "fc.bias"]
    assert list(Head(4, 3, kind="cosine", distill=True).state_dict()) == ["fc.weight", "distill_fc.weight"]
    assert "neck.running_var" in Head(4, 3, neck=True).state_dict()


def test_starts_from_equal_odds_or_rows_of_length_1():
    torch.manual_seed(0)
    probabilities = Head(1024, 6)(pooled(100, 1024)).softmax(1)
    assert 0.03 < probabilities.min() and probabilities.max() < 0.5
    lengths = Head(1024, 6, kind="cosine").fc.weight.norm(dim=1)
    assert 0.9 < lengths.min() and lengths.max() < 1.1


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: got 'arcface', expected one of linear, cosine"):
        Head(4, 3, kind="arcface")
