"""Views, head, selection, the four losses, tasks and metrics against closed forms and naive loops."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ssl_kd import (
    PRESETS,
    ContrastiveHeadLoss,
    MixedViews,
    RotationViews,
    SSKDLoss,
    SSKDStep,
    SSWrapper,
    cosine_scores,
    error_level,
    load_head,
    positives,
    save_head,
    select,
    train_ss_head,
)
from ssl_kd.experiment import TEACHER
from ssl_kd.metrics import (
    features,
    head_outputs,
    linear_cka,
    retrieval,
    score_correlation,
    teacher_student_kl,
)
from ssl_kd.tasks import TASKS, Contrastive, Exemplar, Jigsaw, Rotation
from tenfold._errors import UserInputError
from tenfold.distill import create_model, load_classifier
from tenfold.distill.data import Augment, ImageArrays, LabelledImages
from tenfold.distill.loop import batches
from tenfold.distill.small import stroke_set
from tenfold.testing import assert_bit_equal, require, two_gloo_ranks

RAW = Augment(0, 0.0, (0, 0, 0), (1, 1, 1))


def image(seed=0, side=8):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


# ---- views ---------------------------------------------------------------------------------------


def test_rotations_are_counter_clockwise_and_turn_back():
    pixels = image()
    views = RotationViews(RAW)(pixels)
    assert views.shape == (4, 3, 8, 8)
    for k in range(4):
        back = torch.rot90(views[k], -k, dims=(1, 2))
        assert torch.equal(back, views[0])
    corner = np.zeros((4, 4, 3), np.uint8)
    corner[0, 3] = 255  # top right goes to top left
    assert float(RotationViews(RAW)(corner)[1, 0, 0, 0]) == 1.0
    assert torch.equal(RotationViews(RAW)(Image.fromarray(pixels)), views)


def test_the_mirror_is_shared_and_comes_before_the_rotation():
    flips = RotationViews(Augment(0, 0.5, (0, 0, 0), (1, 1, 1)))
    mirrored = 0
    for seed in range(20):
        views = flips(image(), np.random.default_rng(seed))
        plain = RotationViews(RAW)(image())
        flipped = RotationViews(RAW)(image()[:, ::-1].copy())
        mirrored += torch.equal(views, flipped)
        assert torch.equal(views, flipped) or torch.equal(views, plain)
    assert 4 < mirrored < 16
    alone = RotationViews(Augment(0, 0.5, (0, 0, 0), (1, 1, 1)), shared_flip=False)
    kinds = set()
    for seed in range(20):
        views = alone(image(), np.random.default_rng(seed))
        kinds.add(tuple(torch.equal(views[k], plain[k]) for k in range(4)))
    assert len(kinds) > 4  # each view has a mirror of its own


def test_each_view_has_its_own_crop():
    views = RotationViews(Augment(4, 0.0, (0, 0, 0), (1, 1, 1)))(image(), np.random.default_rng(0))
    backs = [torch.rot90(views[k], -k, dims=(1, 2)) for k in range(4)]
    assert sum(torch.equal(backs[0], back) for back in backs[1:]) < 3
    batch = RotationViews(Augment(4, 0.5))
    together = batch.batch(np.stack([image(0), image(1)]), [np.random.default_rng(k) for k in (5, 6)])
    for k in range(2):
        assert torch.equal(together[k], batch(image(k), np.random.default_rng(5 + k)))


def test_mixed_views_keep_the_first_and_change_the_others():
    views = MixedViews(RAW)
    for seed in range(10):
        found = views(image(side=16), np.random.default_rng(seed))
        assert torch.equal(found[0], RAW(image(side=16), None))
        assert not any(torch.equal(found[0], found[k]) for k in (1, 2, 3))
        assert found.min() >= 0
        assert found.max() <= 1
    with pytest.raises(ValueError, match="expected a generator"):
        views(image())
    with pytest.raises(ValueError, match="a square"):
        RotationViews(RAW)(np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="needs a generator"):
        RotationViews(Augment(0, 0.5))(image())


# ---- head and similarities -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "size"),
    [
        (64, 8320),
        (128, 33024),
        (256, 131584),
        (512, 525312),
        (960, 1845120),
        (1024, 2099200),
        (1280, 3279360),
    ],
)
def test_head_sizes(width, size):
    head = SSWrapper(create_model("resnet8"), feat_dim=width).proj_head
    assert sum(p.numel() for p in head.parameters()) == size == 2 * (width**2 + width)


def test_the_wrapper_works_on_any_backbone():
    wrapper = SSWrapper(nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 3)))
    logits, z, feature = wrapper(torch.randn(2, 3, 4, 4))
    assert logits.shape == (2, 3)
    assert z.shape == feature.shape == (2, 10)
    torch.testing.assert_close(wrapper.backbone[3](feature), logits)
    require("torchvision")
    assert SSWrapper(create_model("torchvision:resnet18", 3)).proj_head[0].in_features == 512


def expanded(z, views=4):
    """Cosine by the definition, row by row."""
    rows = [z[i * views + k] for i in range(len(z) // views) for k in range(1, views)]
    plain = [z[i * views] for i in range(len(z) // views)]
    return torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in plain]) for a in rows])


def test_scores_equal_the_definition_and_do_not_see_lengths():
    z = torch.randn(20, 6, dtype=torch.float64)
    scores = cosine_scores(z)
    torch.testing.assert_close(scores, expanded(z), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(cosine_scores(z * torch.rand(20, 1, dtype=torch.float64).add(0.1)), scores)
    swapped = z.view(5, 4, 6)[[1, 0, 2, 3, 4]].reshape(20, 6)
    other = cosine_scores(swapped)
    rows = [3, 4, 5, 0, 1, 2, *range(6, 15)]
    torch.testing.assert_close(other, scores[rows][:, [1, 0, 2, 3, 4]])
    assert positives(3, 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="expected \\(views B, d\\)"):
        cosine_scores(z[:7])


@pytest.mark.parametrize(
    ("batch", "ln", "floor"), [(16, 2.7726, 1.8185), (32, 3.4657, 2.4884), (64, 4.1589, 3.1702)]
)
def test_bounds_of_the_head_s_loss(batch, ln, floor):
    loss = ContrastiveHeadLoss()
    equal = torch.ones(4 * batch, 8, dtype=torch.float64)
    assert float(loss(equal)) == pytest.approx(math.log(batch), abs=1e-9) == pytest.approx(ln, abs=1e-4)
    simplex = torch.eye(batch, dtype=torch.float64) - 1.0 / batch
    best = simplex.repeat_interleave(4, 0)
    assert float(loss(best)) == pytest.approx(floor, abs=1e-4)
    assert float(ContrastiveHeadLoss(0.1)(best)) < floor
    with pytest.raises(ValueError, match="tau: got 0"):
        ContrastiveHeadLoss(0.0)


def test_the_contrastive_task_s_loss_is_that_of_the_head():
    z, right = torch.randn(12, 5), torch.tensor([2, 1, 0] * 3)
    assert torch.equal(Contrastive(0.3).teacher_loss(z, positives(3)), ContrastiveHeadLoss(0.3)(z))
    expected = F.cross_entropy(cosine_scores(z) / 0.3, right)
    assert torch.equal(Contrastive(0.3).teacher_loss(z, right), expected)
    with pytest.raises(ValueError, match="tau: got 0"):
        Contrastive(0.0).teacher_loss(z, right)


# ---- selection -----------------------------------------------------------------------------------


def test_levels_count_larger_scores():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.5, 0.5, 0.5], [torch.nan, 1.0, 0.0]])
    assert error_level(scores, torch.tensor([0, 1, 2, 0])).tolist() == [0, 2, 0, 3]
    with pytest.raises(ValueError, match="expected \\(n, m\\)"):
        error_level(scores, torch.tensor([0]))


def test_selection_keeps_right_rows_and_the_best_wrong_ones():
    levels = torch.tensor([0, 0, 3, 1, 2, 9])
    assert select(levels, 0.75).tolist() == [0, 1, 2, 3, 4]
    assert select(levels, 0.0).tolist() == [0, 1]
    assert select(levels, 1.0).tolist() == [0, 1, 2, 3, 4, 5]
    assert select(torch.tensor([2, 1]), 0.0).tolist() == []
    assert select(torch.tensor([1, 1, 1, 1]), 0.5).tolist() == [0, 1]  # ties go to the first rows
    with pytest.raises(ValueError, match="ratio: got 2"):
        select(levels, 2)


# ---- the four losses -----------------------------------------------------------------------------


def case(images=5, classes=6, width=7, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    n = 4 * images
    return (
        draw(n, classes) * 2,
        draw(n, width),
        draw(n, classes) * 2,
        draw(n, width),
        torch.arange(images) % classes,
    )


def kl(t, s, temperature):
    p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
    return float((p * (p.log() - q.log())).sum()) * temperature**2


def naive(s_logits, s_z, t_logits, t_z, y, ratio_tf, ratio_ss):
    """The losses in loops over images and views, from the text of the paper."""
    images = len(y)
    plain = [4 * i for i in range(images)]
    moved = [4 * i + k for i in range(images) for k in (1, 2, 3)]

    def chosen(scores, truth, ratio):
        rank = [int((row > row[k]).sum()) for row, k in zip(scores, truth, strict=True)]
        wrong = sorted((r, j) for j, r in enumerate(rank) if r > 0)
        return [j for j, r in enumerate(rank) if r == 0] + [j for _, j in wrong[: int(ratio * len(wrong))]]

    tf_rows = chosen(t_logits[moved], [int(y[j // 3]) for j in range(len(moved))], ratio_tf)
    a_t, a_s = expanded(t_z), expanded(s_z)
    ss_rows = chosen(a_t, [j // 3 for j in range(len(moved))], ratio_ss)
    return {
        "ce": float(np.mean([-s_logits[r].log_softmax(0)[y[i]] for i, r in enumerate(plain)])),
        "kd": np.mean([kl(t_logits[r], s_logits[r], 4.0) for r in plain]),
        "tf": np.mean([kl(t_logits[moved[j]], s_logits[moved[j]], 4.0) for j in tf_rows]),
        "ss": np.mean([kl(a_t[j], a_s[j], 0.5) for j in ss_rows]),
        "n_tf": len(tf_rows),
        "n_ss": len(ss_rows),
    }


@pytest.mark.parametrize(("ratio_tf", "ratio_ss"), [(1.0, 0.75), (0.5, 0.25), (0.0, 0.0), (0.3, 1.0)])
def test_losses_equal_loops_over_images(ratio_tf, ratio_ss):
    arguments = case()
    ours = SSKDLoss(ratio_tf=ratio_tf, ratio_ss=ratio_ss)(*arguments)
    expected = naive(*arguments, ratio_tf, ratio_ss)
    for name, value in expected.items():
        assert float(ours[name]) == pytest.approx(value, rel=1e-9), name
    total = 0.1 * expected["ce"] + 0.9 * expected["kd"] + 2.7 * expected["tf"] + 10 * expected["ss"]
    assert float(ours["loss"]) == pytest.approx(total, rel=1e-9)


def test_a_student_equal_to_its_teacher_has_only_cross_entropy():
    s, z, _, _, y = case()
    s.requires_grad_()
    z.requires_grad_()
    losses = SSKDLoss()(s, z, s.detach(), z.detach(), y)
    for name in ("kd", "tf", "ss"):
        assert abs(float(losses[name].detach())) < 1e-12
    (losses["kd"] + losses["tf"] + losses["ss"]).backward()
    assert float(s.grad.abs().max()) < 1e-12
    assert float(z.grad.abs().max()) < 1e-12


def test_batch_of_one_has_no_self_supervision():
    losses = SSKDLoss()(*case(images=1))
    assert float(losses["ss"]) == 0
    assert torch.isfinite(losses["loss"])


def test_an_empty_selection_is_zero_with_finite_gradients():
    s_logits, s_z, t_logits, _, y = case(images=3)
    t_z = torch.eye(3, dtype=torch.float64).repeat_interleave(4, 0)
    t_z = t_z.view(3, 4, 3)
    t_z[:, 1:] = t_z[[1, 2, 0], 1:]  # every row of the teacher is wrong
    s_z.requires_grad_()
    losses = SSKDLoss(ratio_ss=0.0)(s_logits, s_z, t_logits, t_z.view(12, 3), y)
    assert int(losses["n_ss"]) == 0
    assert float(losses["ss"].detach()) == 0
    losses["loss"].backward()
    assert s_z.grad is None or torch.isfinite(s_z.grad).all()


def test_selection_follows_the_teacher_and_gradients_the_student():
    s_logits, s_z, t_logits, t_z, y = case()
    for x in (s_logits, s_z, t_logits, t_z):
        x.requires_grad_()
    SSKDLoss()(s_logits, s_z, t_logits, t_z, y)["loss"].backward()
    assert t_logits.grad is None
    assert t_z.grad is None
    assert float(s_z.grad.abs().max()) > 0
    other = SSKDLoss()(s_logits.flip(1), s_z.flip(0), t_logits, t_z, y)
    same = SSKDLoss()(s_logits, s_z, t_logits, t_z, y)
    assert int(other["n_ss"]) == int(same["n_ss"])
    assert float(other["ss_acc_t"]) == float(same["ss_acc_t"])


def test_high_temperature_limits():
    s_logits, s_z, t_logits, t_z, y = case(images=6)
    losses = SSKDLoss(T_ss=50.0, ratio_ss=1.0)(s_logits, s_z, t_logits, t_z, y)
    delta = expanded(t_z) - expanded(s_z)
    limit = ((delta - delta.mean(1, keepdim=True)) ** 2).sum(1).mean() / 12
    assert float(losses["ss"]) == pytest.approx(float(limit), rel=0.02)


def test_presets_swap_the_last_two_weights():
    arguments = case()
    parts = SSKDLoss()(*arguments)
    for name, weights in PRESETS.items():
        total = sum(weights[k] * float(parts[k]) for k in weights)
        assert float(SSKDLoss(weights=name)(*arguments)["loss"]) == pytest.approx(total)
    assert PRESETS["code"]["tf"] == PRESETS["arxiv"]["ss"] == 2.7
    assert PRESETS["code"]["ss"] == PRESETS["arxiv"]["tf"] == 10.0
    own = SSKDLoss(weights={"kd": 2.0})(*arguments)
    assert float(own["loss"]) == pytest.approx(2 * float(own["kd"]))


def test_image_major_order_matters():
    """Views of an image must lie together: the view-major order gives another loss."""
    s_logits, s_z, t_logits, t_z, y = case()
    wrong = torch.arange(20).view(5, 4).T.reshape(-1)
    good = SSKDLoss()(s_logits, s_z, t_logits, t_z, y)
    bad = SSKDLoss()(s_logits[wrong], s_z[wrong], t_logits[wrong], t_z[wrong], y)
    assert abs(float(good["ce"]) - float(bad["ce"])) > 1e-3


def test_shuffled_targets_are_a_control():
    arguments = case()
    torch.manual_seed(0)
    shuffled = SSKDLoss(permute=True, ratio_ss=1.0)(*arguments)
    plain = SSKDLoss(ratio_ss=1.0)(*arguments)
    assert float(shuffled["ss"]) != pytest.approx(float(plain["ss"]))
    assert float(shuffled["ss_acc_t"]) == float(plain["ss_acc_t"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SSKDLoss(weights="best"), "weights: got 'best'"),
        (lambda: SSKDLoss(weights={"sss": 1.0}), "expected numbers >= 0 for ce"),
        (lambda: SSKDLoss(T_ss=0.0), "temperatures"),
        (lambda: SSKDLoss(ratio_ss=1.5), "ratios"),
        (lambda: SSKDLoss(gather=True, task=Rotation()), "gather"),
        (lambda: SSKDLoss()(*case()[:4], torch.arange(4)), "4 rows for each of B labels"),
        (lambda: SSKDLoss()(*case()[:4], torch.full((5,), 9)), "got 9 to 9"),
        (lambda: SSKDLoss()(case()[0][:, :5], *case()[1:]), "expected equal shapes"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _gathered():
    rank = torch.distributed.get_rank()
    s_logits, s_z, t_logits, t_z, y = case(images=6)
    part, images = slice(12 * rank, 12 * rank + 12), slice(3 * rank, 3 * rank + 3)
    mine = s_z[part].clone().requires_grad_()
    losses = SSKDLoss(gather=True, ratio_ss=1.0)(s_logits[part], mine, t_logits[part], t_z[part], y[images])
    losses["ss"].backward()
    alone = SSKDLoss(ratio_ss=1.0)(s_logits[part], s_z[part], t_logits[part], t_z[part], y[images])
    return float(losses["ss"].detach()), mine.grad, float(alone["ss"]), float(losses["ss_acc_t"])


def test_gathered_negatives_equal_one_large_batch():
    s_logits, s_z, t_logits, t_z, y = case(images=6)
    s_z.requires_grad_()
    whole = SSKDLoss(ratio_ss=1.0)(s_logits, s_z, t_logits, t_z, y)
    whole["ss"].backward()
    (first, g0, alone, acc0), (second, g1, _, acc1) = two_gloo_ranks(_gathered)
    assert (first + second) / 2 == pytest.approx(float(whole["ss"].detach()), rel=1e-9)
    assert (acc0 + acc1) / 2 == pytest.approx(float(whole["ss_acc_t"]), rel=1e-5)
    torch.testing.assert_close(torch.cat([g0, g1]) / 2, s_z.grad)
    assert alone != pytest.approx(first)  # without it every process has fewer negatives


# ---- step and head training ----------------------------------------------------------------------


def pair(classes=4):
    torch.manual_seed(0)
    return SSWrapper(create_model("plain3", classes)), SSWrapper(create_model("resnet8", classes))


def test_the_step_trains_the_student_and_leaves_the_teacher():
    student, teacher = pair()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    step = SSKDStep(student, teacher).train()
    x = torch.randn(6, 4, 3, 16, 16)
    losses = step(x, torch.arange(6) % 4)
    losses["loss"].backward()
    assert losses["logits"].shape == (6, 4)
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert_bit_equal(dict(teacher.state_dict()), before)
    flat = SSKDStep(copy.deepcopy(student), teacher).eval()(x.flatten(0, 1), torch.arange(6) % 4)
    again = SSKDStep(copy.deepcopy(student), teacher).eval()(x, torch.arange(6) % 4)
    assert_bit_equal(flat["loss"], again["loss"])
    for call, message in (
        (lambda: step(x), "labels: got None"),
        (lambda: step(x[:0], torch.zeros(0, dtype=torch.long)), "empty batch"),
        (lambda: step(x * torch.nan, torch.arange(6) % 4), "NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_amp_keeps_the_losses_in_float32():
    step = SSKDStep(*pair(), amp="bf16").train()
    losses = step(torch.randn(4, 4, 3, 16, 16), torch.arange(4))
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()


def data(n=16):
    pixels = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return ImageArrays(
        LabelledImages(pixels, np.arange(n) % 4, tuple("abcd")), RotationViews(Augment(2, 0.5))
    )


@pytest.mark.parametrize("name", TASKS)
def test_head_training_moves_the_head_alone(name):
    task = TASKS[name]()
    teacher = pair()[1]
    teacher.proj_head = task.head(64)
    backbone = {k: v.clone() for k, v in teacher.backbone.state_dict().items()}
    start = {k: v.clone() for k, v in teacher.proj_head.state_dict().items()}
    images = data()
    images.transform = task.views(Augment(2, 0.5))
    head = train_ss_head(teacher, batches(images, 8), epochs=2, task=task)
    assert_bit_equal(dict(teacher.backbone.state_dict()), backbone)  # statistics included
    assert any(not torch.equal(head[key], start[key]) for key in start)
    assert not teacher.training


def test_head_training_learns_to_retrieve():
    torch.manual_seed(0)
    teacher = SSWrapper(load_classifier(TEACHER).model)
    plain = stroke_set("ambiguous", 64)
    loader = batches(ImageArrays(plain.data, RotationViews(plain.transform.plain())), 64)
    x = next(iter(loader))[0].flatten(0, 1)
    loss = ContrastiveHeadLoss()
    before = teacher(x)[1].detach()
    train_ss_head(teacher, loader, epochs=15)
    after = teacher(x)[1].detach()
    assert float(loss(after)) < float(loss(before)) - 0.2  # the floor for 64 images is 3.17
    assert retrieval(after) > 1.5 * retrieval(before)


def test_heads_as_files(tmp_path):
    teacher = pair()[1]
    save_head(tmp_path / "h" / "a.pt", teacher.proj_head.state_dict(), seed=3)
    other = pair()[1]
    nn.init.zeros_(other.proj_head[0].weight)
    assert load_head(other, tmp_path / "h" / "a.pt") == {"seed": 3}
    assert_bit_equal(dict(other.proj_head.state_dict()), dict(teacher.proj_head.state_dict()))
    torch.save({"state_dict": teacher.state_dict()}, tmp_path / "published.pth")
    assert load_head(other, tmp_path / "published.pth") == {}
    torch.save({"state_dict": create_model("resnet8").state_dict()}, tmp_path / "none.pth")
    for path, message in (
        (tmp_path / "absent.pt", "no such file; train it first"),
        (tmp_path / "none.pth", "head: holds none"),
    ):
        with pytest.raises(UserInputError, match=message):
            load_head(other, path)
    narrow = SSWrapper(create_model("plain3"))
    with pytest.raises(UserInputError, match="do not fit"):
        load_head(narrow, tmp_path / "h" / "a.pt")


# ---- tasks ---------------------------------------------------------------------------------------


def test_rotation_and_contrastive_targets():
    x = torch.randn(3, 4, 3, 4, 4)
    flat, target = Rotation().prepare(x)
    assert torch.equal(flat, x.flatten(0, 1))
    assert target.tolist() == [0, 1, 2, 3] * 3
    assert Contrastive().prepare(x)[1].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_jigsaw_permutes_quarters_as_its_target_says():
    x = torch.arange(4.0).view(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1).expand(2, 4, 3, 4, 4)
    mixed, target = Jigsaw().prepare(x, torch.Generator().manual_seed(0))
    assert len(set(target.tolist())) > 3
    for picture, k in zip(mixed, target.tolist(), strict=True):
        quarters = [picture[0, 0, 0], picture[0, 0, 2], picture[0, 2, 0], picture[0, 2, 2]]
        assert tuple(int(q) for q in quarters) == Jigsaw.orders[k]
    assert target.view(2, 4)[:, 0].tolist() == [0, 0]


def test_exemplar_s_loss_is_a_margin():
    z = torch.eye(3, dtype=torch.float64).repeat_interleave(4, 0)
    task = Exemplar(margin=0.5)
    assert float(task.teacher_loss(z, positives(3))) == 0
    same = torch.ones(12, 3, dtype=torch.float64)
    assert float(task.teacher_loss(same, positives(3))) == pytest.approx(0.5)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_distils(name):
    task = TASKS[name]()
    student, teacher = pair()
    student.proj_head, teacher.proj_head = task.head(48), task.head(64)
    step = SSKDStep(student, teacher, SSKDLoss(task=task)).train()
    losses = step(torch.randn(4, 4, 3, 16, 16), torch.arange(4))
    losses["loss"].backward()
    assert float(losses["ss"].detach()) > 0


# ---- metrics -------------------------------------------------------------------------------------


def test_cka_by_its_other_formula():
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 4, dtype=torch.float64)
    centre = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    hsic = (k * m).sum() / (k.norm() * m.norm())
    assert linear_cka(x, y) == pytest.approx(float(hsic))
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1.0)
    assert linear_cka(x, torch.ones(30, 2)) == 0
    with pytest.raises(ValueError, match="expected"):
        linear_cka(x, y[:5])


def test_divergence_and_retrieval():
    t, s = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    assert teacher_student_kl(t, s) == pytest.approx(np.mean([kl(t[i], s[i], 1.0) for i in range(4)]))
    z = torch.eye(8).repeat_interleave(4, 0)
    assert retrieval(z, batch=4) == 1.0
    wrong = z.view(8, 4, 8).clone()
    wrong[0, 1:] = wrong[1, 0]
    assert retrieval(wrong.view(32, 8), batch=8) == pytest.approx(1 - 3 / 24)
    assert score_correlation(z, z, batch=8) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 64"):
        retrieval(z)


def test_outputs_are_those_of_eval_mode_and_every_module_keeps_its_own():
    network = pair()[0].train()
    network.backbone.eval()
    views = torch.randn(3, 4, 3, 16, 16)
    _, z, feature = network(views.flatten(0, 1))  # nothing in the head depends on the mode
    network.train().proj_head.eval()
    torch.testing.assert_close(head_outputs(network, views, batch=2), z.detach())
    torch.testing.assert_close(features(network, views.flatten(0, 1), batch=5), feature.detach())
    assert network.training
    assert network.backbone.training
    assert not network.proj_head.training
