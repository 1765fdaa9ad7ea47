"""Every distiller against an independent float64 restatement, its invariances, and the gradient check."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import kl_div, log_softmax, softmax

from tenfold._errors import UserInputError
from tenfold.distill.distillers import DISTILLERS, Outputs, build, dkd_loss, kd_loss
from tenfold.distill.distillers.logits import decoupled
from tenfold.distill.distillers.relations import angle_cosines, pairwise_distances

B = 5
S = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2), (8,)]
T = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (10, 4, 4), (12,)]
SAME = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2), (8,)]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


def outputs(shapes, seed, classes=3, requires_grad=False):
    g = torch.Generator().manual_seed(seed)
    taps = [torch.randn(B, *shape, generator=g, dtype=torch.float64) for shape in shapes]
    logits = torch.randn(B, classes, generator=g, dtype=torch.float64) * 2
    for x in (*taps, logits):
        x.requires_grad_(requires_grad)
    return Outputs(logits, taps)


def make(name, s=S, t=T, **options):
    torch.manual_seed(0)
    if name == "crd":
        options = {"labels": LABELS, "negatives": 3, "width": 4, **options}
    return build(name, s, t, **options).double()


LABEL = torch.tensor([0, 1, 2, 0, 1])
INDEX = torch.tensor([3, 1, 2, 0, 4])


def loss(distiller, student, teacher):
    return distiller.loss(student, teacher, LABEL, INDEX)


# ---- restatements: plain loops or scipy, written from the formulas ------------------------------


def pooled(x, side):
    """Average pooling to side x side by loops; sizes are multiples here."""
    n, c, h, _ = x.shape
    k = h // side
    return x.reshape(n, c, side, k, side, k).mean((3, 5))


def alike(a, b):
    side = min(a.shape[2], b.shape[2])
    return pooled(a, side), pooled(b, side)


def unit_rows(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def attention(x):
    return unit_rows((x**2).mean(1).reshape(len(x), -1))


def ref_kd(s, t, *_):
    p, log_q = softmax(t.logits.numpy() / 4, 1), log_softmax(s.logits.numpy() / 4, 1)
    return 16 * kl_div(p, np.exp(log_q)).sum() / B


def ref_dkd(s, t, *_):
    total = 0.0
    for i, y in enumerate(LABEL.tolist()):
        p, q = softmax(t.logits[i].numpy() / 4), softmax(s.logits[i].numpy() / 4)
        binary = kl_div([p[y], 1 - p[y]], [q[y], 1 - q[y]]).sum()
        rest = [k for k in range(3) if k != y]
        others = kl_div(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()).sum()
        total += 16 * (binary + 8 * others)
    return total / B


def ref_at(s, t, *_):
    return sum(
        ((attention(a) - attention(b)) ** 2).mean()
        for a, b in (alike(s.taps[k].numpy(), t.taps[k].numpy()) for k in (1, 2, 3))
    )


def ref_sp(s, t, *_):
    def gram(x):
        flat = x.reshape(B, -1)
        return unit_rows(flat @ flat.T)

    return ((gram(s.taps[-2].numpy()) - gram(t.taps[-2].numpy())) ** 2).sum() / B**2


def ref_nst(s, t, *_):
    total = 0.0
    for k in (1, 2, 3):
        a, b = (
            np.stack([unit_rows(image.reshape(len(image), -1)) for image in x])
            for x in alike(s.taps[k].numpy(), t.taps[k].numpy())
        )

        def kernel(x, y):
            return np.mean([[[(u @ v) ** 2 for v in y[i]] for u in x[i]] for i in range(B)])

        total += kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)
    return total


def ref_rkd(s, t, *_):
    def smooth(a, b):
        d = np.abs(a - b)
        return np.where(d < 1, 0.5 * d**2, d - 0.5).mean()

    def distances(x):
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[d > 0].mean()

    def angles(x):
        found = np.zeros((B, B, B))
        for i in range(B):
            for j in range(B):
                for k in range(B):
                    u, v = x[j] - x[i], x[k] - x[i]
                    if i not in (j, k):
                        found[i, j, k] = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
        return found

    a, b = s.taps[-1].numpy(), t.taps[-1].numpy()
    return 25 * smooth(distances(a), distances(b)) + 50 * smooth(angles(a), angles(b))


def ref_pkt(s, t, *_):
    def neighbours(x):
        unit = x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-7)
        similarity = (1 + unit @ unit.T) / 2
        return similarity / similarity.sum(1, keepdims=True)

    p, q = neighbours(t.taps[-1].numpy()), neighbours(s.taps[-1].numpy())
    return np.mean(p * np.log((p + 1e-7) / (q + 1e-7)))


def linear(layer, x):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def ref_cc(s, t, distiller):
    delta = np.abs(
        linear(distiller.embed_s, s.taps[-1].numpy()) - linear(distiller.embed_t, t.taps[-1].numpy())
    )
    return np.mean([(delta[i] * delta[i + 1]).sum() for i in range(B - 1)])


def ref_fitnet(s, t, distiller):
    """The maps have one size here: a 1x1 convolution, batch statistics, rectification."""
    conv, norm = distiller.regressor[0], distiller.regressor[1]
    weight, x = conv.weight.detach().numpy()[:, :, 0, 0], s.taps[2].numpy()
    y = np.einsum("oc,nchw->nohw", weight, x) + conv.bias.detach().numpy()[:, None, None]
    mean, var = y.mean((0, 2, 3), keepdims=True), y.var((0, 2, 3), keepdims=True)
    y = np.maximum((y - mean) / np.sqrt(var + norm.eps), 0)
    return ((y - t.taps[2].numpy()) ** 2).mean()


def ref_vid(s, t, distiller):
    total = 0.0
    for number, k in enumerate((1, 2, 3)):
        a, b = alike(s.taps[k].numpy(), t.taps[k].numpy())
        for layer in distiller.means[number]:
            if isinstance(layer, torch.nn.Conv2d):
                a = np.einsum("oc,nchw->nohw", layer.weight.detach().numpy()[:, :, 0, 0], a)
            else:
                a = np.maximum(a, 0)
        v = np.log1p(np.exp(distiller.alphas[number].detach().numpy())) + 1e-5
        v = v[None, :, None, None]
        total += (0.5 * ((a - b) ** 2 / v + np.log(v))).mean()
    return total


def ref_ab(s, t, distiller):
    total, n = 0.0, 3
    for number, k in enumerate((1, 2, 3)):
        with torch.no_grad():
            a = distiller.connectors[number](s.taps[k]).numpy()
        for u, v in zip(a.ravel(), t.taps[k].numpy().ravel(), strict=True):
            if u > -1 and v <= 0:
                total += 2.0 ** (number + 1 - n) * (u + 1) ** 2
            elif u <= 1 and v > 0:
                total += 2.0 ** (number + 1 - n) * (u - 1) ** 2
    return total * 3 / (1000 * B)


def ref_ft(s, t, distiller):
    with torch.no_grad():
        a = distiller.translator(s.taps[-2]).numpy()
        b = distiller.paraphraser(t.taps[-2]).numpy()
    a, b = alike(a, b)
    return np.abs(attention(a) - attention(b)).mean()


def ref_fsp(s, t, *_):
    def flow(taps, k):
        a, b = alike(taps[k].numpy(), taps[k + 1].numpy())
        return np.einsum("nihw,njhw->nij", a, b) / (a.shape[2] * a.shape[3])

    return sum(((flow(s.taps, k) - flow(t.taps, k)) ** 2).mean() for k in range(3))


REFERENCES = {
    "kd": ref_kd,
    "dkd": ref_dkd,
    "at": ref_at,
    "sp": ref_sp,
    "nst": ref_nst,
    "rkd": ref_rkd,
    "pkt": ref_pkt,
    "cc": ref_cc,
    "fitnet": ref_fitnet,
    "vid": ref_vid,
    "ab": ref_ab,
    "ft": ref_ft,
    "fsp": ref_fsp,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_loss_equals_its_restatement(name):
    t_shapes = SAME if name == "fsp" else T
    distiller = make(name, S, t_shapes)
    student, teacher = outputs(S, 1), outputs(t_shapes, 2)
    ours = float(loss(distiller, student, teacher).detach())
    assert ours == pytest.approx(float(REFERENCES[name](student, teacher, distiller)), rel=1e-6, abs=1e-9)
    assert ours != 0


def test_crd_equals_its_restatement():
    distiller = make("crd").train()
    student, teacher = outputs(S, 1), outputs(T, 2)
    banks = distiller.bank_s.clone(), distiller.bank_t.clone()
    torch.manual_seed(7)
    ours = float(loss(distiller, student, teacher).detach())
    torch.manual_seed(7)
    rows = np.concatenate([INDEX.numpy()[:, None], distiller.draw(INDEX).numpy()], 1)
    n, k = len(LABELS), 3
    z_s = unit_rows(linear(distiller.embed_s, student.taps[-1].numpy()))
    z_t = unit_rows(linear(distiller.embed_t, teacher.taps[-1].numpy()))
    total = 0.0
    for z, bank in ((z_s, banks[1].numpy()), (z_t, banks[0].numpy())):
        raw = np.array([[math.exp(z[i] @ bank[j] / 0.07) for j in rows[i]] for i in range(B)])
        e = raw / (raw.mean() * n)
        for i in range(B):
            total -= math.log(e[i, 0] / (e[i, 0] + k / n)) / B
            total -= sum(math.log((k / n) / (e[i, j] + k / n)) for j in range(1, k + 1)) / B
    assert ours == pytest.approx(total, rel=1e-6)
    for bank, z, old in ((distiller.bank_s, z_s, banks[0]), (distiller.bank_t, z_t, banks[1])):
        expected = unit_rows(0.5 * old.numpy()[INDEX] + 0.5 * z)
        np.testing.assert_allclose(bank.numpy()[INDEX], expected, atol=1e-6)
        others = [k for k in range(n) if k not in INDEX.tolist()]
        np.testing.assert_array_equal(bank.numpy()[others], old.numpy()[others])


def test_crd_draws_other_classes_without_repetition():
    distiller = make("crd", negatives=100)
    assert distiller.negatives == 5  # no more than there are images of other classes
    labels = np.array(LABELS)
    for _ in range(5):
        drawn = distiller.draw(INDEX).numpy()
        for row, i in zip(drawn, INDEX.tolist(), strict=True):
            assert len(set(row.tolist())) == 5
            assert (labels[row] != labels[i]).all()
    first = float(distiller.scale[0])
    loss(distiller, outputs(S, 1), outputs(T, 2))
    kept = distiller.scale.clone()
    assert first == 0
    assert (kept > 0).all()
    loss(distiller, outputs(S, 3), outputs(T, 4))
    assert torch.equal(distiller.scale, kept)  # constant after the first batch


@pytest.mark.parametrize("name", DISTILLERS)
def test_gradients_are_those_of_finite_differences(name):
    t_shapes = SAME if name == "fsp" else T
    distiller = make(name, S, t_shapes).eval()  # frozen statistics and banks: a function of its inputs alone
    teacher = outputs(t_shapes, 2, requires_grad=True)
    student = outputs(S, 1, requires_grad=True)

    def f(*tensors):
        torch.manual_seed(3)
        return loss(distiller, Outputs(tensors[-1], tensors[:-1]), teacher)

    inputs = (*student.taps, student.logits)
    f(*inputs).backward()
    used = [k for k, x in enumerate(inputs) if x.grad is not None and x.grad.abs().max() > 0]
    assert used, "the student learns nothing"
    assert all(x.grad is None for x in (*teacher.taps, teacher.logits)), "the teacher learns"
    direction = [torch.randn_like(x) if k in used else torch.zeros_like(x) for k, x in enumerate(inputs)]
    eps = 1e-6
    with torch.no_grad():
        plus = f(*(x + eps * d for x, d in zip(inputs, direction, strict=True)))
        minus = f(*(x - eps * d for x, d in zip(inputs, direction, strict=True)))
    slope = sum(
        float((x.grad * d).sum()) for x, d in zip(inputs, direction, strict=True) if x.grad is not None
    )
    assert float(plus - minus) / (2 * eps) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", ["kd", "dkd", "at", "sp", "rkd", "pkt", "nst", "fsp"])
def test_a_student_equal_to_its_teacher_has_no_loss(name):
    same = outputs(SAME, 1)
    assert abs(float(loss(make(name, SAME, SAME), same, same))) < 1e-12


def test_cc_and_ft_vanish_for_equal_embeddings_and_factors():
    same = outputs(SAME, 1)
    cc = make("cc", SAME, SAME)
    cc.embed_t.load_state_dict(cc.embed_s.state_dict())
    assert float(loss(cc, same, same).detach()) == 0
    ft = make("ft", SAME, SAME)
    ft.translator = ft.paraphraser
    assert float(loss(ft, same, same).detach()) == 0


def test_kd_limits_and_empty_rows():
    s, t = torch.randn(6, 10, dtype=torch.float64), torch.randn(6, 10, dtype=torch.float64)
    d = t - s
    limit = ((d - d.mean(1, keepdim=True)) ** 2).sum(1).mean() / 20
    assert float(kd_loss(s, t, 100.0)) == pytest.approx(float(limit), rel=3e-3)
    empty = torch.zeros(0, 3, requires_grad=True)
    value = kd_loss(empty, torch.zeros(0, 3))
    value.backward()
    assert float(value.detach()) == 0
    with pytest.raises(ValueError, match="temperature: got 0"):
        kd_loss(s, t, 0.0)
    with pytest.raises(ValueError, match="expected equal shapes"):
        kd_loss(s, t[:, :5])


def test_decoupled_parts_make_up_kd():
    s, t, y = torch.randn(6, 10).double(), torch.randn(6, 10).double(), torch.arange(6)
    tckd, nckd = decoupled(s, t, y, 4.0)
    p = (t / 4).softmax(1)[torch.arange(6), y]
    torch.testing.assert_close(16 * (tckd + (1 - p) * nckd).mean(), kd_loss(s, t, 4.0))
    assert float(dkd_loss(s, t, y)) > 0


def test_invariances():
    x, teacher = outputs(SAME, 1), outputs(SAME, 2)
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]

    def with_vector(v):
        return Outputs(x.logits, [*x.taps[:-1], v])

    rkd, pkt = make("rkd", SAME, SAME), make("pkt", SAME, SAME)
    base = x.taps[-1]
    torch.testing.assert_close(loss(rkd, with_vector(base @ rotation + 3.0), teacher), loss(rkd, x, teacher))
    far = make("rkd", SAME, SAME, angle=0.0)
    torch.testing.assert_close(loss(far, with_vector(base * 5.0), teacher), loss(far, x, teacher))
    torch.testing.assert_close(loss(pkt, with_vector(base * 5.0), teacher), loss(pkt, x, teacher))
    sp = make("sp", SAME, SAME)
    mixed = torch.einsum("nchw,cd->ndhw", x.taps[-2], rotation)
    torch.testing.assert_close(
        loss(sp, Outputs(x.logits, [*x.taps[:-2], mixed, base]), teacher), loss(sp, x, teacher)
    )


def test_vid_is_lowest_at_the_mean_square_error():
    distiller = make("vid")
    student, teacher = outputs(S, 1), outputs(T, 2)
    assert all(float((F.softplus(a) + 1e-5 - 5).abs().max()) < 1e-6 for a in distiller.alphas)
    errors = []
    with torch.no_grad():
        for number, k in enumerate((1, 2, 3)):
            s = F.adaptive_avg_pool2d(student.taps[k], min(S[k][1], T[k][1]))
            t = F.adaptive_avg_pool2d(teacher.taps[k], min(S[k][1], T[k][1]))
            errors.append((distiller.means[number](s) - t).square().mean((0, 2, 3)))
            distiller.alphas[number].copy_(torch.log(torch.expm1(errors[-1] - 1e-5)))
    loss(distiller, student, teacher).backward()
    assert all(float(a.grad.abs().max()) < 1e-9 for a in distiller.alphas)


def test_ab_is_silent_beyond_the_margin():
    distiller = make("ab", SAME, SAME)
    teacher = outputs(SAME, 2)
    sure = Outputs(teacher.logits, [tap.sign() * (2 + tap.abs()) for tap in teacher.taps])
    assert float(loss(distiller, sure, teacher)) == 0
    wrong = Outputs(teacher.logits, [-tap for tap in sure.taps])
    assert float(loss(distiller, wrong, teacher)) > 0


def test_ft_s_first_stage_trains_the_paraphraser_alone():
    distiller = make("ft")
    teacher = outputs(T, 2)
    value = distiller.init_loss(None, teacher)
    value.backward()
    assert all(
        p.grad is not None for part in (distiller.paraphraser, distiller.decoder) for p in part.parameters()
    )
    assert all(p.grad is None for p in distiller.translator.parameters())
    distiller.zero_grad(set_to_none=True)
    loss(distiller, outputs(S, 1), teacher).backward()
    assert all(p.grad is None for p in distiller.paraphraser.parameters())
    assert all(p.grad is not None for p in distiller.translator.parameters())


def test_published_weights():
    expected = {
        "kd": 0.9,
        "fitnet": 100,
        "at": 1000,
        "sp": 3000,
        "cc": 0.02,
        "vid": 1,
        "rkd": 1,
        "pkt": 30000,
        "ab": 1,
        "ft": 200,
        "fsp": 50,
        "nst": 50,
        "crd": 0.8,
        "dkd": 1,
    }
    assert {name: kind.weight for name, kind in DISTILLERS.items()} == expected


def test_distances_and_angles_have_finite_gradients_for_equal_rows():
    x = torch.ones(4, 3, requires_grad=True)
    (pairwise_distances(x).sum() + angle_cosines(x).sum()).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("fitnett", S, T), "did you mean 'fitnet'"),
        (lambda: build("at", S, VGG_TAPS), "the student has 5, the teacher 6; give the mapping"),
        (lambda: build("at", S, VGG_TAPS, mapping=[(1, 9)]), "tap 9 does not exist"),
        (lambda: build("at", S, VGG_TAPS, mapping=[(4, 1)]), "expected a map"),
        (lambda: build("fsp", S, T), "expected the same"),
        (lambda: build("crd", S, T), "labels: missing"),
        (lambda: build("crd", S, T, labels=[0, 0]), "at least two classes"),
        (lambda: build("rkd", S[:-1], T), "expected a vector"),
        (lambda: build("rkd", S, T, depth=3), "depth"),
        (lambda: build("fitnet", [(4, 3, 3)] * 3, [(4, 8, 8)] * 3), "no rule from 3 to 8"),
    ],
)
def test_bad_requests_are_the_user_s_error(call, message):
    with pytest.raises(UserInputError, match=message):
        call()


VGG_TAPS = [(4, 8, 8), (4, 8, 8), (6, 4, 4), (8, 2, 2), (8, 2, 2), (8,)]


def test_a_mapping_joins_networks_of_different_families():
    distiller = make("at", S, VGG_TAPS, mapping=[(1, 1), (3, 4)])
    assert float(loss(distiller, outputs(S, 1), outputs(VGG_TAPS, 2))) > 0


@pytest.mark.parametrize(("s", "t"), [(8, 4), (4, 8), (4, 4), (6, 4)])
def test_regressors_reach_the_teacher_s_size(s, t):
    distiller = build("fitnet", [(4, s, s)] * 3, [(6, t, t)] * 3)
    assert distiller.regressor(torch.zeros(2, 4, s, s)).shape == (2, 6, t, t)


def test_batches_that_cannot_be_compared():
    one = Outputs(torch.zeros(1, 3), [torch.zeros(1, *shape) for shape in S])
    for name in ("cc", "rkd"):
        with pytest.raises(ValueError, match="at least 2"):
            build(name, S, S).loss(one, one)
    for name in ("kd", "at", "sp", "pkt", "nst"):
        assert abs(float(build(name, S, S).loss(one, one))) < 1e-6  # a batch of one is fine
    two = Outputs(torch.zeros(2, 3), [torch.zeros(2, *shape) for shape in S])
    with pytest.raises(ValueError, match="1 images of the student, 2"):
        build("kd", S, S).loss(one, two)
    with pytest.raises(ValueError, match="labels: got None"):
        build("dkd", S, S).loss(two, two)
    with pytest.raises(ValueError, match="index: got None"):
        build("crd", S, S, labels=LABELS).loss(two, two)
    with pytest.raises(ValueError, match="index: got up to 8"):
        build("crd", S, S, labels=LABELS).loss(two, two, None, torch.tensor([0, 8]))


def test_half_precision_is_computed_in_float32():
    s, t = outputs(S, 1), outputs(T, 2)
    half = [Outputs(o.logits.bfloat16(), [tap.bfloat16() for tap in o.taps]) for o in (s, t)]
    for name in ("kd", "at", "pkt", "rkd", "sp"):
        value = build(name, S, T).loss(*half)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
