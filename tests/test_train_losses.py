"""Every loss against its formula in plain Python, which runs on the same numbers in float64."""

import math

import pytest
import torch

from train.loop.losses import (
    arcface_logits,
    batch_hard_triplet,
    cross_entropy,
    curricular_logits,
    group_weights,
    kl_distillation,
    symmetric_kl,
)

TOLERANCES = [(torch.float32, 2e-6), (torch.float64, 1e-13)]
each_dtype = pytest.mark.parametrize("dtype, tolerance", TOLERANCES)
LABELS = torch.tensor([0, 2, 1, 1, 3, 0, 2])
WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 15.0])


def numbers(*shape, seed=0, dtype=torch.float64, factor=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * factor).to(dtype)


def random_cosines(dtype=torch.float64):
    """(7, 4), with angles of the label's class on both sides of pi - 0.35, and near 0 and pi."""
    cosines = numbers(7, 4).double().tanh()
    cosines[torch.arange(4), LABELS[:4]] = torch.tensor([-0.97, -0.93, 0.9999, -0.9999], dtype=torch.float64)
    return cosines.to(dtype)


def gradcheck(function, x):
    return torch.autograd.gradcheck(function, x.clone().requires_grad_())


def softmax(row, temperature=1.0):
    exponentials = [math.exp(x / temperature) for x in row]
    return [e / sum(exponentials) for e in exponentials]


# cross_entropy


def naive_cross_entropy(logits, labels, class_weights, label_smoothing, sample_weights):
    total = total_weight = 0.0
    class_weights, sample_weights = class_weights.tolist(), sample_weights.tolist()
    for row, label, sample_weight in zip(logits.tolist(), labels.tolist(), sample_weights, strict=True):
        loss = 0.0
        for c, p in enumerate(softmax(row)):
            target = (1 - label_smoothing) * (c == label) + label_smoothing / len(row)
            loss -= target * math.log(p)
        weight = class_weights[label] * sample_weight
        total, total_weight = total + weight * loss, total_weight + weight
    return total / total_weight


@each_dtype
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_the_formula(dtype, tolerance, label_smoothing, weighted):
    logits = numbers(7, 4, dtype=dtype, factor=3.0)
    class_weights = WEIGHTS.to(dtype) if weighted else torch.ones(4, dtype=dtype)
    sample_weights = numbers(7, seed=1, dtype=dtype).exp() if weighted else torch.ones(7, dtype=dtype)
    options = {"label_smoothing": label_smoothing}
    if weighted:
        options |= {"class_weights": class_weights, "sample_weights": sample_weights}
    actual = cross_entropy(logits, LABELS, **options)
    expected = naive_cross_entropy(logits, LABELS, class_weights, label_smoothing, sample_weights)
    assert actual.dtype == dtype
    assert actual.item() == pytest.approx(expected, rel=5 * tolerance)
    if dtype == torch.float64:
        assert gradcheck(lambda x: cross_entropy(x, LABELS, **options), logits)


def test_cross_entropy_by_hand():
    # p = 3/4 and 1/4 with weights 1 and 3: (log 4/3 + 3 log 4) / 4
    logits = torch.tensor([[math.log(3), 0.0], [math.log(3), 0.0]])
    labels, weights = torch.tensor([0, 1]), torch.tensor([1.0, 3.0])
    expected = (math.log(4 / 3) + 3 * math.log(4)) / 4
    assert cross_entropy(logits, labels, class_weights=weights).item() == pytest.approx(expected, rel=1e-6)
    assert cross_entropy(logits, labels, sample_weights=weights).item() == pytest.approx(expected, rel=1e-6)


def test_weights_do_not_scale_the_gradient():
    def gradient(**weights):
        logits = numbers(7, 4).requires_grad_()
        cross_entropy(logits, LABELS, **weights).backward()
        return logits.grad

    expected = gradient()
    for weights in ({"class_weights": torch.full((4,), 1e3)}, {"sample_weights": torch.full((7,), 1e-3)}):
        assert torch.allclose(gradient(**weights), expected, rtol=1e-6)
    unseen = torch.tensor([1.0, 1.0, 1.0, 0.0])  # class 3 does not count: as if its image were not there
    rest = cross_entropy(numbers(7, 4)[LABELS != 3], LABELS[LABELS != 3])
    assert torch.allclose(cross_entropy(numbers(7, 4), LABELS, class_weights=unseen), rest)


def test_certainty_gives_finite_gradients():
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0], [0.0, -math.inf]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 0, 0]))
    loss.backward()
    assert loss.item() == pytest.approx(200 / 3)
    assert logits.grad.isfinite().all()
    # log p falls by 1 for every 1 of the certain and wrong logit
    assert logits.grad[1].tolist() == pytest.approx([-1 / 3, 1 / 3])


# Margins


def naive_arcface(cosines, labels, margin, scale):
    rows = []
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        theta = math.acos(row[label])
        past_pi = theta + margin >= math.pi
        row[label] = row[label] - margin * math.sin(margin) if past_pi else math.cos(theta + margin)
        rows.append([scale * x for x in row])
    return rows


def naive_curricular(cosines, labels, margin, scale, t):
    rows = naive_arcface(cosines, labels, margin, 1.0)
    t = 0.99 * t + 0.01 * sum(cosines[n, y].item() for n, y in enumerate(labels.tolist())) / len(labels)
    for row, label in zip(rows, labels.tolist(), strict=True):
        target = row[label]
        row[:] = [x * (t + x) if c != label and x > target else x for c, x in enumerate(row)]
    return [[scale * x for x in row] for row in rows], t


@each_dtype
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.35, 1.5])
def test_margins_are_the_formulas(dtype, tolerance, margin):
    cosines = random_cosines(dtype)
    actual = arcface_logits(cosines, LABELS, margin=margin, scale=16.0)
    expected = torch.tensor(naive_arcface(cosines, LABELS, margin, 16.0), dtype=torch.float64)
    assert actual.dtype == dtype and torch.allclose(actual.double(), expected, rtol=0, atol=16 * tolerance)

    t = torch.tensor(0.3, dtype=dtype)
    actual, new_t = curricular_logits(cosines, LABELS, margin=margin, scale=16.0, t=t)
    rows, expected_t = naive_curricular(cosines, LABELS, margin, 16.0, t.item())
    expected = torch.tensor(rows, dtype=torch.float64)
    assert actual.dtype == dtype and torch.allclose(actual.double(), expected, rtol=0, atol=16 * tolerance)
    assert new_t.dtype == dtype and new_t.item() == pytest.approx(expected_t, rel=tolerance)


def test_margins_have_the_right_gradients():
    cosines = random_cosines() * 0.99  # steps of gradcheck must not cross 1
    assert gradcheck(lambda x: arcface_logits(x, LABELS, margin=0.35, scale=4.0), cosines)

    # t follows the labels' cosines without a gradient: the check moves the others alone, through the modulation.
    is_label = torch.nn.functional.one_hot(LABELS, 4).bool()

    def modulated(x):
        t = torch.tensor(0.3, dtype=torch.float64)
        return curricular_logits(torch.where(is_label, cosines, x), LABELS, margin=0.35, scale=4.0, t=t)[0]

    assert gradcheck(modulated, cosines)


def test_margins_by_hand():
    # 60 degrees and a margin of 30: cos 90 = 0. At 170 degrees 200 would be past pi: cos 170 - m sin m.
    degree = math.pi / 180
    cosines = torch.tensor([[math.cos(60 * degree), 0.25], [math.cos(170 * degree), 0.25]], dtype=torch.float64)
    labels = torch.tensor([0, 0])
    past_pi = math.cos(170 * degree) - 30 * degree / 2
    actual = arcface_logits(cosines, labels, margin=30 * degree, scale=10.0)
    expected = torch.tensor([[0.0, 2.5], [10 * past_pi, 2.5]], dtype=torch.float64)
    assert torch.allclose(actual, expected, atol=1e-14)
    # 0.25 beats the label in both rows: 0.25 * (t + 0.25)
    t = torch.tensor(0.5, dtype=torch.float64)
    actual, new_t = curricular_logits(cosines, labels, margin=30 * degree, scale=10.0, t=t)
    assert new_t.item() == pytest.approx(0.99 * 0.5 + 0.01 * (0.5 + math.cos(170 * degree)) / 2)
    expected[:, 1] = 2.5 * (new_t + 0.25)
    assert torch.allclose(actual, expected, atol=1e-14)
    assert t == 0.5


def test_the_margin_never_helps():
    """Over the whole circle the label's logit falls with the angle, past pi too, and lies below the bare one."""
    cosines = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    logits = arcface_logits(cosines, torch.zeros(2001, dtype=torch.int64), margin=0.35, scale=1.0)
    assert (logits.diff(dim=0) > 0).all() and (logits <= cosines).all()


def test_t_gets_no_gradient_and_follows_the_batch():
    cosines = random_cosines().requires_grad_()
    t = torch.tensor(0.0)
    for _ in range(1000):
        logits, t = curricular_logits(cosines, LABELS, margin=0.2, scale=16.0, t=t)
    assert (t.requires_grad, t.dtype, t.shape) == (False, torch.float32, ())
    assert t.item() == pytest.approx(cosines[torch.arange(7), LABELS].mean().item(), abs=1e-4)
    logits.sum().backward()
    assert cosines.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angles_of_0_and_180_degrees_give_finite_gradients(dtype):
    cosines = torch.tensor([[1.0, -1.0], [1.0, -1.0]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 1])
    arc = arcface_logits(cosines, labels, margin=0.35, scale=1.0)
    curricular, _ = curricular_logits(cosines, labels, margin=0.35, scale=1.0, t=torch.tensor(0.5))
    (arc.sum() + curricular.sum()).backward()
    assert arc[0, 0].item() == pytest.approx(math.cos(0.35))
    assert cosines.grad.isfinite().all() and cosines.grad.abs().max() < 10


# batch_hard_triplet


def naive_triplet(embeddings, labels, margin):
    rows, labels, losses = embeddings.tolist(), labels.tolist(), []
    for a, anchor in enumerate(rows):
        positives = [math.dist(anchor, x) for i, x in enumerate(rows) if labels[i] == labels[a] and i != a]
        negatives = [math.dist(anchor, x) for i, x in enumerate(rows) if labels[i] != labels[a]]
        if positives and negatives:
            losses.append(max(0.0, margin + max(positives) - min(negatives)))
    return sum(losses) / len(losses)


@each_dtype
@pytest.mark.parametrize("margin", [0.0, 0.6, 5.0])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_triplet_is_the_formula(dtype, tolerance, margin, offset):
    embeddings = numbers(24, 5, dtype=dtype) + offset
    labels = torch.arange(24) % 5 + 3 * (torch.arange(24) == 7)  # class 5 has one image: no anchor, yet a negative
    actual = batch_hard_triplet(embeddings, labels, margin=margin)
    assert actual.dtype == dtype
    assert actual.item() == pytest.approx(naive_triplet(embeddings, labels, margin), rel=tolerance, abs=tolerance)


def test_triplet_has_the_right_gradients():
    assert gradcheck(lambda x: batch_hard_triplet(x, LABELS, margin=5.0), numbers(7, 3))


def test_triplet_by_hand():
    # On a line: 0 and 3 of class 0, 4 and 8 of class 1. Anchor 0: 3 - 4, 3: 3 - 1, 4: 4 - 1, 8: 4 - 5. Margin 0.5.
    embeddings = torch.tensor([[0.0], [3.0], [4.0], [8.0]])
    loss = batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.5)
    assert loss.item() == pytest.approx((0 + 2.5 + 3.5 + 0) / 4)


@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [0, 1, 2, 3], [0]])
def test_triplet_without_anchors_is_0_with_a_graph(labels):
    embeddings = numbers(len(labels), 3).requires_grad_()
    loss = batch_hard_triplet(embeddings, torch.tensor(labels), margin=0.6)
    assert loss.item() == 0
    loss.backward()
    assert embeddings.grad.eq(0).all()


def test_triplet_of_equal_embeddings():
    embeddings = torch.ones(4, 3, requires_grad=True)
    loss = batch_hard_triplet(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.6)
    loss.backward()
    assert loss.item() == pytest.approx(0.6)
    assert embeddings.grad.eq(0).all()


# Distillation


def naive_kl(student, teacher, temperature):
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@each_dtype
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_formula(dtype, tolerance, temperature):
    student, teacher = numbers(7, 4, dtype=dtype), numbers(7, 4, seed=1, dtype=dtype)
    actual = kl_distillation(student, teacher, temperature=temperature)
    assert actual.dtype == dtype
    assert actual.item() == pytest.approx(naive_kl(student, teacher, temperature), rel=10 * tolerance)
    if dtype == torch.float64:
        assert gradcheck(lambda x: kl_distillation(x, teacher, temperature=temperature), student)


def test_kl_by_hand():
    # Teacher 1/2, 1/2, student 3/4, 1/4: (log 2/3 + log 2) / 2
    student, teacher = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    assert kl_distillation(student, teacher, temperature=1.0).item() == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)


def test_divergence_of_two_answers_by_hand():
    # 3/4, 1/4 and 1/2, 1/2: KL of either from the other, (3/4 log 3/2 + 1/4 log 1/2 + log(4 / 3) / 2) / 2
    one, other = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5) + math.log(4 / 3) / 2) / 2
    assert symmetric_kl(one, other).item() == pytest.approx(expected, rel=1e-12)
    assert symmetric_kl(other, one).item() == pytest.approx(expected, rel=1e-12)
    assert symmetric_kl(one, one + 5).item() == pytest.approx(0, abs=1e-12)
    other = numbers(7, 4, seed=1)
    assert gradcheck(lambda x: symmetric_kl(x, other), numbers(7, 4))
    assert gradcheck(lambda x: symmetric_kl(other, x), numbers(7, 4))


def test_equal_distributions_cost_nothing():
    student = numbers(7, 4).requires_grad_()
    teacher = (student.detach() + numbers(7, 1, seed=1)).requires_grad_()  # a shift per image changes no softmax
    loss = kl_distillation(student, teacher, temperature=4.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max() < 1e-7
    assert teacher.grad is None
    log_probabilities = kl_distillation(numbers(7, 4, seed=2), teacher.log_softmax(1), temperature=4.0)
    assert torch.allclose(log_probabilities, kl_distillation(numbers(7, 4, seed=2), teacher, temperature=4.0))


def test_limits_of_the_temperature():
    student, teacher = numbers(7, 4), numbers(7, 4, seed=1)
    s, t = student - student.mean(1, keepdim=True), teacher - teacher.mean(1, keepdim=True)
    # Hinton et al., section 2.1: at a high T the loss is the mean square between centred logits, over 2 C.
    matching = ((s - t) ** 2).sum(1).mean() / 8
    assert torch.allclose(kl_distillation(student, teacher, temperature=1e4), matching, rtol=1e-3)
    # At a low T the teacher is its argmax, and T * KL the student's distance to it.
    best = teacher.argmax(1, keepdim=True)
    regret = (student.max(1).values - student.gather(1, best)[:, 0]).mean()
    assert torch.allclose(kl_distillation(student, teacher, temperature=1e-3) / 1e-3, regret, rtol=1e-3)


def test_a_teacher_that_rules_classes_out():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, -math.inf, -math.inf]])
    loss = kl_distillation(student, teacher, temperature=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert student.grad.isfinite().all()


def test_sharp_cosine_logits_give_finite_gradients():
    student = (64 * random_cosines(torch.float32)).requires_grad_()
    kl_distillation(student, 64 * numbers(7, 4, seed=1, dtype=torch.float32).tanh(), temperature=1.0).backward()
    assert student.grad.isfinite().all() and student.grad.abs().max() < 100


# Groups


def test_groups_by_hand():
    # Shares 3/6, 2/6, 1/6 and nothing of group 3: 1, 3/2 and 3
    groups = torch.tensor([0, 1, 0, 2, 1, 0])
    weights = group_weights(groups)
    assert torch.allclose(weights, torch.tensor([1.0, 1.5, 1.0, 3.0, 1.5, 1.0])) and weights.dtype == torch.float32
    assert group_weights(torch.tensor([2, 2, 2])).eq(1).all()
    # Every group has the same part in the loss: the mean of the groups' means.
    logits, labels = numbers(6, 4), LABELS[:6]
    by_group = [cross_entropy(logits[groups == g], labels[groups == g]) for g in range(3)]
    assert torch.allclose(cross_entropy(logits, labels, sample_weights=weights), sum(by_group) / 3)


# Precision


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: cross_entropy(x, LABELS, label_smoothing=0.1, class_weights=WEIGHTS),
        lambda x: arcface_logits(x, LABELS, margin=0.35, scale=16.0),
        lambda x: curricular_logits(x, LABELS, margin=0.35, scale=16.0, t=torch.tensor(0.3))[0],
        lambda x: batch_hard_triplet(x, LABELS, margin=0.6),
        lambda x: kl_distillation(x, x.flip(1), temperature=4.0),
        lambda x: symmetric_kl(x, x.flip(1)),
    ],
    ids=["cross_entropy", "arcface", "curricular", "triplet", "kl", "symmetric_kl"],
)
def test_autocast_changes_nothing(loss):
    half = random_cosines(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        from_half, from_single, from_double = loss(half), loss(half.float()), loss(half.double())
    assert from_half.dtype == torch.float32 and torch.equal(from_half, from_single)
    assert torch.equal(from_single, loss(half.float()))
    assert from_double.dtype == torch.float64 and torch.equal(from_double, loss(half.double()))
