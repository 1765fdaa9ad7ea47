"""Every public family of files is read exactly, and none of them runs anything."""

import collections
import functools
import math
import os
import pickle
import sys
import types

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import stylegan_distill as sd
from stylegan_distill.networks import modulated_conv2d
from tenfold._errors import UserInputError
from tenfold.io import CheckpointMismatchError

SMALL2 = sd.StyleGAN2Config(16, z_dim=8, w_dim=8, widths=(6, 6, 4), mapping_layers=3, w_avg_beta=0.995)
SMALL3 = sd.StyleGAN3Config(
    32, z_dim=8, w_dim=8, num_layers=6, margin_size=4, channel_base=128, channel_max=8
)
JUDGE = sd.DiscriminatorConfig(16, widths=(6, 6, 4))
RUNS = "open('source_was_run', 'w').close()\n"


def images_equal(a, b, tolerance=1e-6):
    z = torch.randn(3, a.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        options = {"truncation_psi": 0.7, "noise": "const"}
        torch.testing.assert_close(a(z, **options), b(z, **options), rtol=0, atol=tolerance)


def randomised(net, seed=0):
    """Every tensor that a file holds is non-trivial, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            value.add_(
                torch.randn(value.shape, generator=generator)
                * (0.3 if "bias" in name or value.dim() == 0 else 0)
            )
        for name, value in net.named_buffers():
            if name.endswith("w_avg"):
                value.copy_(torch.randn(value.shape, generator=generator))
            if name.endswith("magnitude_ema"):
                value.fill_(1.5)
    return net.eval()


# ---- NVIDIA's persistent objects: a pickle whose stock loader executes the source it carries


class Persistent:
    """As the decorated classes there reduce."""

    def __init__(self, class_name, state):
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": RUNS,
            "class_name": class_name,
            "state": state,
        }

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


class EasyDict(dict):
    """Pickled by its class, as theirs."""


@pytest.fixture
def foreign(monkeypatch):
    """Modules of NVIDIA's repositories, so that the standard pickler can name what they hold."""

    def _reconstruct_persistent_obj(meta):
        exec(meta["module_src"])  # what stock loaders do
        return meta

    class Network:
        def __init__(self, state):
            self.state = state

        def __getstate__(self):
            return self.state

    persistence, util, network = (
        types.ModuleType(n) for n in ("torch_utils.persistence", "dnnlib.util", "dnnlib.tflib.network")
    )
    for owner, module in ((_reconstruct_persistent_obj, persistence), (Network, network), (EasyDict, util)):
        owner.__module__, owner.__qualname__ = module.__name__, owner.__name__
        setattr(module, owner.__name__, owner)
    for module in (persistence, util, network):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("torch_utils", "dnnlib", "dnnlib.tflib"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    return network.Network


def persistent(module, **extra):
    """A module of ours as NVIDIA's objects keep theirs."""
    state = {
        "training": False,
        "_parameters": collections.OrderedDict(module._parameters),
        "_buffers": collections.OrderedDict(module._buffers),
        "_modules": collections.OrderedDict((n, persistent(m)) for n, m in module._modules.items()),
        "_forward_hooks": collections.OrderedDict(),
        "_non_persistent_buffers_set": set(),
        "in_size": np.asarray([4, 4]),
        "_init_args": (),
        **{name: getattr(module, name) for name in ("conv_clamp", "w_avg_beta") if hasattr(module, name)},
        **extra,
    }
    if hasattr(module, "lr_multiplier"):
        state["bias_gain"] = module.lr_multiplier
    return Persistent(type(module).__name__, state)


def nvidia_kwargs(cfg, nested):
    synthesis = {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max, "num_fp16_res": 4}
    if isinstance(cfg, sd.StyleGAN3Config):
        synthesis |= {"num_layers": cfg.num_layers, "margin_size": cfg.margin_size}
    mapping = EasyDict(num_layers=cfg.mapping_layers)
    common = {
        "z_dim": cfg.z_dim,
        "c_dim": 0,
        "w_dim": cfg.w_dim,
        "img_resolution": cfg.resolution,
        "img_channels": 3,
    }
    own = {"synthesis_kwargs": EasyDict(synthesis)} if nested else synthesis
    return EasyDict(common, mapping_kwargs=mapping, **own)


def write_nvidia(path, cfg, nested=False, change=None):
    torch.manual_seed(3)
    net = randomised(
        sd.StyleGAN2Generator(cfg) if isinstance(cfg, sd.StyleGAN2Config) else sd.StyleGAN3Generator(cfg)
    )
    if change is not None:
        change(net)
    record = persistent(net, _init_kwargs=nvidia_kwargs(cfg, nested), img_resolution=cfg.resolution, c_dim=0)
    judge = sd.StyleGANDiscriminator(JUDGE).eval()
    d = persistent(
        judge,
        _init_kwargs=EasyDict(c_dim=0, channel_base=32768, epilogue_kwargs=EasyDict(mbstd_group_size=4)),
    )
    content = {
        "G": None,
        "D": d,
        "G_ema": record,
        "augment_pipe": None,
        "training_set_kwargs": EasyDict(path="x.zip"),
    }
    path.write_bytes(pickle.dumps(content))
    return net, judge


@pytest.mark.parametrize(("cfg", "nested"), [(SMALL2, True), (SMALL2, False), (SMALL3, False)])
def test_nvidia_files_run_nothing_and_load_exactly(foreign, tmp_path, monkeypatch, cfg, nested):
    monkeypatch.chdir(tmp_path)
    net, judge = write_nvidia(tmp_path / "net.pkl", cfg, nested)
    found = sd.load_checkpoint("net.pkl")
    assert not (tmp_path / "source_was_run").exists()
    assert (found.source_format, found.G) == ("nvidia", None)
    assert found.meta["training_set"] == {"path": "x.zip"}
    assert not found.meta["notes"]
    assert type(found.G_ema) is type(net)
    assert found.G_ema.cfg.w_avg_beta == cfg.w_avg_beta
    assert found.G_ema.widths == net.widths
    images_equal(found.G_ema, net)
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(found.D(x), judge(x))
    # The same bytes, read as stock loaders read them, do run the source: the test is no dud.
    pickle.loads((tmp_path / "net.pkl").read_bytes())
    assert (tmp_path / "source_was_run").exists()


def test_nvidia_layers_match_by_number_and_odd_filters_warn(foreign, tmp_path):
    """Names of StyleGAN3's layers embed widths; a file's own filters win over the designed ones, with a warning."""

    def change(net):
        net.synthesis.layers()[2].up_filter.mul_(1.1)

    path = tmp_path / "net.pkl"
    net, _ = write_nvidia(path, SMALL3, change=change)
    content = path.read_bytes().replace(b"L0_24_8", b"L0_24_9")  # a name that lies
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="up_filter: differs from the designed filter"):
        found = sd.load_checkpoint(path)
    assert len(found.meta["notes"]) == 1
    images_equal(found.G_ema, net)


def test_nvidia_files_must_fit(foreign, tmp_path):
    path = tmp_path / "net.pkl"

    def without_bias(net):
        del net.synthesis.b8.torgb._parameters["bias"]

    write_nvidia(path, SMALL2, change=without_bias)
    with pytest.raises(CheckpointMismatchError, match=r"missing: synthesis\.b8\.torgb\.bias"):
        sd.load_generator(path)
    record = Persistent(
        "Generator", {"_init_kwargs": EasyDict(architecture="resnet"), "_parameters": {"a": torch.zeros(1)}}
    )
    path.write_bytes(pickle.dumps({"G_ema": record}))
    with pytest.raises(UserInputError, match=r"net\.pkl: G_ema: network: neither"):
        sd.load_generator(path)
    path.write_bytes(pickle.dumps({"weights": 3}))
    with pytest.raises(UserInputError, match="expected networks named"):
        sd.load_generator(path)
    write_nvidia(path, SMALL2)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserInputError, match=r"net\.pkl"):
            sd.load_generator(path)


class Call:
    def __init__(self, function, *args):
        self.parts = (function, args)

    def __reduce__(self):
        return self.parts


TOUCH = "open('attacked', 'w').close()"
ATTACKS = {
    r"posix\.system|nt\.system": lambda: Call(os.system, "touch attacked"),
    r"builtins\.eval": lambda: Call(eval, TOUCH),
    r"builtins\.exec": lambda: Call(exec, TOUCH),
    r"functools\.partial": lambda: Call(functools.partial, exec, TOUCH),
    r"builtins\.getattr": lambda: Call(getattr, "text", "upper"),
    r"storage that names .*system": lambda: Call(
        torch.storage._load_from_bytes, pickle.dumps(Call(os.system, "touch attacked"), 2)
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_malicious_pickles_are_refused_by_name(foreign, tmp_path, monkeypatch, name):
    """Alone, and inside the state of a persistent object."""
    monkeypatch.chdir(tmp_path)
    bad = ATTACKS[name]()
    for content in (bad, {"G_ema": Persistent("Generator", {"_parameters": {"a": bad}})}):
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(sd.UnsafePickleError, match=name):
            sd.load_checkpoint("bad.pkl")
    (tmp_path / "bad.pkl").write_bytes(b"\x80\x04\x8c\x01x)R.")  # the text "x", called
    with pytest.raises(sd.UnsafePickleError, match="calls something that is no allowed name"):
        sd.load_checkpoint("bad.pkl")
    assert os.listdir(tmp_path) == ["bad.pkl"]


def test_torch_files_with_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save(
            {"g_ema": Call(os.system, "touch attacked")}, "bad.pt", _use_new_zipfile_serialization=zipped
        )
        with pytest.raises(UserInputError, match="system"):
            sd.load_checkpoint("bad.pt")
    assert os.listdir(tmp_path) == ["bad.pt"]


# ---- TensorFlow


def tf_variables(net):
    """Variables of a TensorFlow file for a generator of ours, by the layout that such files have."""
    own = {k: v.detach().double().numpy() for k, v in net.state_dict().items()}
    synthesis, mapping = {}, {}
    for i in range(net.cfg.mapping_layers):
        mapping[f"Dense{i}/weight"] = own[f"mapping.fc{i}.weight"].T
        mapping[f"Dense{i}/bias"] = own[f"mapping.fc{i}.bias"]
    for side in net.cfg.block_resolutions:
        level = int(math.log2(side))
        parts = (
            [("conv0", "Conv0_up", 2 * level - 5), ("conv1", "Conv1", 2 * level - 4)]
            if side > 4
            else [("conv1", "Conv", 0)]
        )
        for ours, theirs, noise in [*parts, ("torgb", "ToRGB", None)]:
            key, name = f"synthesis.b{side}.{ours}", f"{side}x{side}/{theirs}"
            weight = own[f"{key}.weight"].transpose(2, 3, 1, 0)
            synthesis[f"{name}/weight"] = weight[::-1, ::-1] if theirs == "Conv0_up" else weight
            synthesis[f"{name}/bias"] = own[f"{key}.bias"]
            synthesis[f"{name}/mod_weight"] = own[f"{key}.affine.weight"].T
            synthesis[f"{name}/mod_bias"] = own[f"{key}.affine.bias"] - 1
            if noise is not None:
                synthesis[f"{name}/noise_strength"] = own[f"{key}.noise_strength"]
                synthesis[f"noise{noise}"] = own[f"{key}.noise_const"][None, None]
    synthesis["4x4/Const/const"] = own["synthesis.b4.const"][None]
    return {"dlatent_avg": own["mapping.w_avg"], "lod": np.float64(0) + np.zeros(())}, synthesis, mapping


def tf_state(variables, components=(), version=4, **static):
    return {
        "version": version,
        "name": "net",
        "static_kwargs": EasyDict(fmap_base=128, mbstd_group_size=4, **static),
        "components": EasyDict(components),
        "build_module_src": RUNS,
        "build_func_name": "f",
        "variables": [(k, np.asarray(v, dtype=np.float32)) for k, v in variables.items()],
    }


def tf_judge_variables(net):
    own = {k: v.detach().numpy() for k, v in net.state_dict().items()}
    names = {"b16.fromrgb": "16x16/FromRGB", "b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output"}
    for side in (16, 8):
        for ours, theirs in (("conv0", "Conv0"), ("conv1", "Conv1_down"), ("skip", "Skip")):
            names[f"b{side}.{ours}"] = f"{side}x{side}/{theirs}"
    found = {}
    for ours, theirs in names.items():
        weight = own[f"{ours}.weight"]
        found[f"{theirs}/weight"] = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        if f"{ours}.bias" in own:
            found[f"{theirs}/bias"] = own[f"{ours}.bias"]
    return found


def write_tensorflow(network, path, net, judge, version=4, extra=(), **static):
    top, synthesis, mapping = tf_variables(net)
    synthesis.update(extra)

    def generator():
        parts = {"synthesis": network(tf_state(synthesis)), "mapping": network(tf_state(mapping))}
        return network(tf_state(top, parts, version, **static))

    path.write_bytes(pickle.dumps((generator(), network(tf_state(tf_judge_variables(judge))), generator())))


def test_tensorflow_files(foreign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    net, judge = randomised(sd.StyleGAN2Generator(SMALL2)), sd.StyleGANDiscriminator(JUDGE).eval()
    path = tmp_path / "tf.pkl"
    write_tensorflow(foreign, path, net, judge)
    found = sd.load_checkpoint(path)
    assert os.listdir(tmp_path) == ["tf.pkl"]
    assert found.source_format == "tensorflow"
    assert found.G_ema.cfg.channel_base == 256
    images_equal(found.G_ema, net, 1e-5)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(found.D(x), judge(x))

    # The turned kernel is right by itself: there the up-sampling layer correlates a zero-stuffed image with its kernel.
    kernel = torch.from_numpy(tf_variables(net)[1]["8x8/Conv0_up/weight"].transpose(3, 2, 0, 1).copy())
    image = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    stuffed = torch.zeros(1, 6, 8, 8, dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = image
    fir = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    fir = torch.outer(fir, fir) / 16
    # Padding 2 below and right of the kernel's, then the filter's margin.
    wide = F.conv2d(F.pad(stuffed, (2, 1, 2, 1)), kernel)
    expected = F.conv2d(F.pad(wide, (1, 1, 1, 1)), fir.expand(6, 1, 4, 4), groups=6)
    conv = found.G_ema.synthesis.b8.conv0
    got = modulated_conv2d(
        image.float(),
        conv.weight,
        torch.ones(1, 6),
        demodulate=False,
        up=2,
        padding=1,
        up_filter=conv.resample_filter,
    )
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-4)

    write_tensorflow(foreign, path, net, judge, version=3)
    with pytest.raises(UserInputError, match="version: got 3"):
        sd.load_checkpoint(path)
    write_tensorflow(foreign, path, net, judge, extra={"ToRGB_lod0/weight": np.zeros(1)})
    with pytest.raises(UserInputError, match="'orig' and 'resnet'"):
        sd.load_checkpoint(path)
    write_tensorflow(foreign, path, net, judge, extra={"8x8/Odd/weight": np.zeros(1)})
    with pytest.raises(UserInputError, match="8x8/Odd/weight: unexpected variable"):
        sd.load_checkpoint(path)


# ---- rosinality


def rosinality_state(widths, z=8, layers=3, seed=0):
    """A random state dict in the names and shapes of that repository; b4's widths, then two for every block."""
    g = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(shape, generator=g)

    state = {}
    for i in range(layers):
        state[f"style.{i + 1}.weight"], state[f"style.{i + 1}.bias"] = rand(z, z) * 100, rand(z) * 10

    def styled(name, inner, outer, kernel=3):
        state[f"{name}.conv.weight"] = rand(1, outer, inner, kernel, kernel)
        state[f"{name}.conv.modulation.weight"], state[f"{name}.conv.modulation.bias"] = (
            rand(inner, z),
            1 + rand(inner) * 0.1,
        )
        state[f"{name}.noise.weight"], state[f"{name}.activate.bias"] = rand(1), rand(outer)

    def image(name, inner):
        state[f"{name}.conv.weight"] = rand(1, 3, inner, 1, 1)
        state[f"{name}.conv.modulation.weight"], state[f"{name}.conv.modulation.bias"] = (
            rand(inner, z),
            1 + rand(inner) * 0.1,
        )
        state[f"{name}.bias"] = rand(1, 3, 1, 1)

    state["input.input"] = rand(1, widths[0], 4, 4)
    styled("conv1", widths[0], widths[1])
    image("to_rgb1", widths[1])
    state["noises.noise_0"] = rand(1, 1, 4, 4)
    for j in range(len(widths) // 2 - 1):
        side = 8 * 2**j
        inner, middle, outer = widths[2 * j + 1 : 2 * j + 4]
        styled(f"convs.{2 * j}", inner, middle)
        styled(f"convs.{2 * j + 1}", middle, outer)
        state[f"convs.{2 * j}.conv.blur.kernel"] = torch.zeros(4, 4)
        image(f"to_rgbs.{j}", outer)
        state[f"to_rgbs.{j}.upsample.kernel"] = torch.zeros(4, 4)
        for part in (1, 2):
            state[f"noises.noise_{2 * j + part}"] = rand(1, 1, side, side)
    return state


def rosinality_image(s, z):
    """Their generator's arithmetic, straight from its state dict: weights modulated for each image."""
    fir = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 16

    def linear(x, name, mu=1.0):
        weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
        return F.linear(x, weight * mu / math.sqrt(weight.shape[1]), bias * mu)

    def blur(x, low, high):
        return F.conv2d(F.pad(x, (low, high, low, high)), fir.expand(x.shape[1], 1, 4, 4), groups=x.shape[1])

    def stuffed(x):
        return F.interpolate(x, scale_factor=2, mode="nearest") * torch.tensor(
            [[1.0, 0.0], [0.0, 0.0]]
        ).repeat(x.shape[2:])

    def modulated(x, w, name, up=False, demodulate=True):
        style, weight = linear(w, f"{name}.conv.modulation"), s[f"{name}.conv.weight"][0]
        out = []
        for b in range(len(x)):
            own = weight / math.sqrt(weight[0].numel()) * style[b][None, :, None, None]
            if demodulate:
                own = own * (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
            row = x[b : b + 1]
            if up:  # stride 2, transposed: stuffing and the turned kernel
                wide = F.conv2d(F.pad(stuffed(row), (2, 1, 2, 1)), own.flip(2, 3))
                out.append(blur(wide, 1, 1))
            else:
                out.append(F.conv2d(row, own, padding=own.shape[2] // 2))
        return torch.cat(out)

    def styled(x, w, name, noise, up=False):
        y = modulated(x, w, name, up) + s[f"{name}.noise.weight"] * s[f"noises.noise_{noise}"]
        return F.leaky_relu(y + s[f"{name}.activate.bias"].view(1, -1, 1, 1), 0.2) * math.sqrt(2)

    x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    i = 1
    while f"style.{i}.weight" in s:
        x = F.leaky_relu(linear(x, f"style.{i}", 0.01), 0.2) * math.sqrt(2)
        i += 1
    w = x
    x = styled(s["input.input"].expand(len(z), -1, -1, -1), w, "conv1", 0)
    rgb = modulated(x, w, "to_rgb1", demodulate=False) + s["to_rgb1.bias"]
    j = 0
    while f"to_rgbs.{j}.bias" in s:
        x = styled(x, w, f"convs.{2 * j}", 2 * j + 1, up=True)
        x = styled(x, w, f"convs.{2 * j + 1}", 2 * j + 2)
        skip = blur(stuffed(rgb), 2, 1)
        rgb = modulated(x, w, f"to_rgbs.{j}", demodulate=False) + s[f"to_rgbs.{j}.bias"] + skip
        j += 1
    return rgb


def test_rosinality_files_give_the_same_images(tmp_path):
    """Against a restatement of that repository's arithmetic; pruned widths load too; through native files and back."""
    path = tmp_path / "r.pt"
    state = rosinality_state((6, 6, 5, 4, 3, 3))
    average = torch.randn(8)
    torch.save({"g": state, "g_ema": state, "latent_avg": average}, path)
    found = sd.load_checkpoint(path)
    assert found.source_format == "rosinality"
    net = found.G_ema
    assert (net.widths, net.cfg.resolution) == ((6, 6, 5, 4, 3, 3), 16)
    assert torch.equal(net.mapping.w_avg, average)
    z = torch.randn(3, 8)
    with torch.no_grad():
        ours = net(z, noise="const")
    torch.testing.assert_close(
        ours, rosinality_image(state, z), rtol=1e-4, atol=1e-5 * float(ours.abs().max())
    )
    native = tmp_path / "r.safetensors"
    sd.save_checkpoint(native, found)
    with torch.no_grad():
        assert torch.equal(sd.load_generator(native)(z, noise="const"), ours)

    # Without an average, truncation still has the mean of w to go to.
    torch.save({"g_ema": {f"module.{k}": v for k, v in state.items()}}, path)
    found = sd.load_checkpoint(path)
    w = found.G_ema.mapping.style(torch.randn(20_000, 8)).detach()
    torch.testing.assert_close(found.G_ema.mapping.w_avg, w.mean(0), rtol=0, atol=float(w.std()) * 0.05)
    assert "latent_avg" in found.meta["notes"][0]
    del state["convs.1.conv.weight"]
    torch.save({"g_ema": state}, path)
    with pytest.raises(UserInputError, match=r"convs\.1\.conv\.weight: missing"):
        sd.load_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(UserInputError, match="expected the entries g"):
        sd.load_checkpoint(path)


def rosinality_judge():
    """A discriminator of ours, and its state in that repository's names."""
    judge = sd.StyleGANDiscriminator(JUDGE).eval()
    own, state = judge.state_dict(), {}
    names = {
        "convs.0.0": "b16.fromrgb",
        "final_conv.0": "b4.conv",
        "final_linear.0": "b4.fc",
        "final_linear.1": "b4.out",
    }
    for i, side in ((1, 16), (2, 8)):
        names |= {
            f"convs.{i}.conv1.0": f"b{side}.conv0",
            f"convs.{i}.conv2.1": f"b{side}.conv1",
            f"convs.{i}.skip.1": f"b{side}.skip",
        }
        state[f"convs.{i}.conv2.0.kernel"] = state[f"convs.{i}.skip.0.kernel"] = torch.zeros(4, 4)
    biases = {"convs.0.0": "convs.0.1", "final_conv.0": "final_conv.1", "convs.1.conv1.0": "convs.1.conv1.1",
              "convs.2.conv1.0": "convs.2.conv1.1", "convs.1.conv2.1": "convs.1.conv2.2",
              "convs.2.conv2.1": "convs.2.conv2.2",
              "final_linear.0": "final_linear.0", "final_linear.1": "final_linear.1"}  # fmt: skip
    for theirs, ours in names.items():
        state[f"{theirs}.weight"] = own[f"{ours}.weight"]
        if theirs in biases:
            state[f"{biases[theirs]}.bias"] = own[f"{ours}.bias"]
    return judge, state


def test_rosinality_discriminator(tmp_path):
    judge, state = rosinality_judge()
    torch.save({"g": rosinality_state((6, 6)), "d": state}, tmp_path / "r.pt")
    found = sd.load_checkpoint(tmp_path / "r.pt")
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(found.D(x), judge(x))
    assert sd.load_generator(tmp_path / "r.pt").cfg.resolution == 4


@pytest.mark.parametrize("part", ["g_ema", "d"])
def test_tensors_that_are_missing_or_misshapen_are_the_files_fault(tmp_path, part):
    """Each in turn; only filters and noise maps may be missing."""
    sound = {"g_ema": rosinality_state((6, 6, 5, 4)), "d": rosinality_judge()[1]}
    path = tmp_path / "r.pt"
    for key in sound[part]:
        for change in (None, torch.zeros(2)):
            state = {k: v for k, v in sound[part].items() if k != key}
            if change is not None:
                state[key] = change
            torch.save({**sound, part: state}, path)
            try:
                sd.load_checkpoint(path)
                assert key.endswith("kernel") or (key.startswith("noises.") and change is None), key
            except UserInputError as error:
                assert "r.pt" in str(error), key  # noqa: PT017


# ---- native


def test_native_files(tmp_path):
    path = tmp_path / "a.safetensors"
    net, judge = randomised(sd.StyleGAN3Generator(SMALL3)), sd.StyleGANDiscriminator(JUDGE)
    sd.save_checkpoint(path, sd.Checkpoint(G_ema=net, D=judge, meta={"recipe": "x"}))
    found = sd.load_checkpoint(path)
    assert (found.source_format, found.meta, found.G) == ("native", {"recipe": "x"}, None)
    assert found.G_ema.cfg == SMALL3
    assert not found.G_ema.training
    images_equal(found.G_ema, net, 0)
    assert found.D.cfg == JUDGE
    assert sd.load_generator(path, "G").cfg == SMALL3  # the only one there is
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserInputError, match="no sound safetensors"):
        sd.load_checkpoint(path)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(UserInputError, match="no configuration of ours"):
        sd.load_checkpoint(path)
    path.write_bytes(
        safetensors.torch.save(
            {"a": torch.zeros(1)}, {"stylegan_distill": '{"configs": {"G": {"kind": "x"}}}'}
        )
    )
    with pytest.raises(UserInputError, match="kind: got 'x'"):
        sd.load_checkpoint(path)
    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        sd.save_checkpoint(tmp_path / "a.pt", net)
    foreign = sd.Generator(SMALL2, sd.StyleGAN2Generator(SMALL2).mapping, torch.nn.Linear(8, 3))
    with pytest.raises(UserInputError, match="network of its own"):
        sd.save_checkpoint(path, foreign)
    with pytest.raises(UserInputError, match="is no file"):
        sd.load_checkpoint(tmp_path / "none.pkl")
