"""The HLG layer against a slow reference: loops over windows and tokens, float64, no padding, no tables."""

import pytest
import torch
import torch.nn.functional as F

from densevit.errors import UserError
from densevit.models import attention, hlg_layer
from densevit.models.hlg_layer import FullAttention, HLGLayer, LocalGlobalAttention

CASES = [((14, 14), 1), ((14, 14), "span"), ((7, 14), "span"), ((9, 16), 1), ((9, 16), "span"), ((10, 13), 2)]


def windows_of(size, window_size, dilation):
    """List of windows, each a list of (y, x), from the definition: same block and same residue modulo D."""
    groups = {}
    for y in range(size[0]):
        for x in range(size[1]):
            key = []
            for cell, side in ((y, size[0]), (x, size[1])):
                rate = -(-side // window_size) if dilation == "span" else dilation
                key.append((cell // (rate * window_size), cell % rate))
            groups.setdefault(tuple(key), []).append((y, x))
    return list(groups.values())


def attend(q, keys, values, biases, heads):
    """One query (C,) on lists of (C,) keys and values; biases is a list of (heads,) or None."""
    width = len(q) // heads
    out = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = torch.stack([q[part] @ k[part] / width**0.5 for k in keys])
        if biases is not None:
            scores = scores + torch.stack([b[h] for b in biases])
        weights = scores.exp() / scores.exp().sum()
        out.append(sum(w * v[part] for w, v in zip(weights, values, strict=True)))
    return torch.cat(out)


def mean_offset(token, window):
    return [token[a] - sum(t[a] for t in window) / len(window) for a in (0, 1)]


def bias_of(mlp, offset):
    return None if mlp is None else mlp.rest(mlp.first(torch.tensor(offset, dtype=torch.float64)))


def slow_local_global(attn, x):
    """Reference of `LocalGlobalAttention` on one map (H, W, C)."""
    H, W, C = x.shape
    R, heads = attn.window_size, attn.num_heads
    windows = windows_of((H, W), R, attn.dilation)
    n = {(r, c): F.layer_norm(x[r, c], (C,), attn.norm.weight, attn.norm.bias) for r in range(H) for c in range(W)}
    q = {t: attn.q.weight @ v + attn.q.bias for t, v in n.items()}
    k = q if attn.local_key == "query" else {t: attn.k.weight @ v + attn.k.bias for t, v in n.items()}
    v = {t: attn.v.weight @ u + attn.v.bias for t, u in n.items()}
    local = {}
    for window in windows:
        rows, columns = sorted({t[0] for t in window}), sorted({t[1] for t in window})
        place = {t: (rows.index(t[0]), columns.index(t[1])) for t in window}
        for t in window:
            offsets = [[float(place[t][a] - place[s][a]) for a in (0, 1)] for s in window]
            biases = None if attn.local_bias is None else [bias_of(attn.local_bias, o) for o in offsets]
            local[t] = attend(q[t], [k[s] for s in window], [v[s] for s in window], biases, heads)
    y = {t: x[t] + local[t] for t in local}
    tokens = []
    for window in windows:
        stack = torch.stack([y[t] for t in window])
        if attn.embed.kind == "avgpool":
            pooled = stack.mean(dim=0)
        elif attn.embed.kind == "maxpool":
            pooled = stack.max(dim=0).values
        else:
            rows, columns = sorted({t[0] for t in window}), sorted({t[1] for t in window})
            kernel = attn.embed.conv.weight[:, 0]
            pooled = attn.embed.conv.bias.clone()
            for t in window:
                pooled = pooled + y[t] * kernel[:, rows.index(t[0]), columns.index(t[1])]
        tokens.append(F.layer_norm(pooled, (C,), attn.embed.norm.weight, attn.embed.norm.bias))
    keys = [attn.k.weight @ t + attn.k.bias for t in tokens]
    values = [attn.v.weight @ t + attn.v.bias for t in tokens]
    normed = {t: F.layer_norm(u, (C,), attn.norm_query.weight, attn.norm_query.bias) for t, u in local.items()}
    out = torch.empty_like(x)
    for r, c in y:
        mixed = attn.mix_query.bias.clone()
        for dr in (-1, 0, 1):
            for dc in (-1, 0, 1):
                if (r + dr, c + dc) in normed:
                    mixed = mixed + normed[r + dr, c + dc] * attn.mix_query.weight[:, 0, dr + 1, dc + 1]
        biases = None
        if attn.attend.bias is not None:
            biases = [bias_of(attn.attend.bias, mean_offset((r, c), window)) for window in windows]
        out[r, c] = y[r, c] + attn.project.weight @ attend(q[r, c] + mixed, keys, values, biases, heads)
        out[r, c] += attn.project.bias
    return out


def randomized(module, seed=0):
    """Every parameter and running statistic away from its neutral value, in float64, eval."""
    torch.manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.dtype.is_floating_point:
            fan = tensor[0].numel() if tensor.dim() > 1 else 4
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) / fan**0.5)
    return module.double().eval()


@pytest.mark.parametrize("window_embedding", ["avgpool", "maxpool", "dwconv"])
@pytest.mark.parametrize(("size", "dilation"), CASES)
@torch.no_grad()
def test_attention_equals_the_slow_reference(size, dilation, window_embedding):
    attn = LocalGlobalAttention(8, num_heads=2, dilation=dilation, window_embedding=window_embedding)
    randomized(attn)
    x = torch.randn(2, *size, 8, dtype=torch.float64)
    expected = torch.stack([slow_local_global(attn, one) for one in x])
    torch.testing.assert_close(attn(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"local_key": "own"}, {"position_bias": False}, {"window_size": 4}])
@torch.no_grad()
def test_attention_options_equal_the_slow_reference(options):
    attn = randomized(LocalGlobalAttention(8, num_heads=2, dilation="span", **options))
    x = torch.randn(1, 10, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(attn(x)[0], slow_local_global(attn, x[0]), rtol=0, atol=1e-10)


def slow_layer(layer, x):
    """Reference of `HLGLayer`, (H, W, C): textbook NCHW modules one after the other, then the loops."""

    def bn(norm, t):
        return F.batch_norm(t, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def conv1x1(linear, t):
        return F.conv2d(t, linear.weight[:, :, None, None], linear.bias)

    x = x.permute(2, 0, 1)[None]
    mlp, shortcut = layer.mlp, x
    hidden = F.gelu(bn(mlp.expand.norm, conv1x1(mlp.expand.conv, x)))
    conv = mlp.depthwise.conv
    hidden = F.conv2d(hidden, conv.weight, conv.bias, stride=conv.stride, padding=1, groups=conv.groups)
    branch = conv1x1(mlp.project, F.gelu(bn(mlp.depthwise.norm, hidden)))
    branch = F.layer_norm(branch.permute(0, 2, 3, 1), branch.shape[1:2], layer.norm1.weight, layer.norm1.bias)
    if layer.shortcut is not None:
        conv = layer.shortcut.conv
        shortcut = F.conv2d(x, conv.weight, stride=2, padding=1, groups=x.shape[1])
        shortcut = F.gelu(bn(layer.shortcut.norm, shortcut))
    x = shortcut + branch.permute(0, 3, 1, 2)
    smooth = layer.smooth
    y = F.gelu(bn(smooth.reduce.norm, conv1x1(smooth.reduce.conv, x)))
    y = F.gelu(bn(smooth.conv.norm, F.conv2d(y, smooth.conv.conv.weight, padding=1)))
    x = F.gelu(x + bn(smooth.expand.norm, conv1x1(smooth.expand.conv, y)))
    return slow_local_global(layer.attn, x[0].permute(1, 2, 0))


@pytest.mark.parametrize(("size", "in_dim", "stride", "dilation"), [((14, 7), 8, 1, 1), ((17, 22), 4, 2, "span")])
@torch.no_grad()
def test_layer_equals_the_slow_reference(size, in_dim, stride, dilation):
    layer = randomized(HLGLayer(in_dim, 8, num_heads=2, stride=stride, dilation=dilation))
    x = torch.randn(1, *size, in_dim, dtype=torch.float64)
    expected = slow_layer(layer, x[0])
    torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=1e-10)
    with torch.enable_grad():  # the path of training gives the same
        torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_full_attention_equals_a_loop_over_tokens():
    attn = randomized(FullAttention(8, num_heads=2))
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    tokens = [(r, c) for r in range(4) for c in range(5)]
    q, k, v = (attn.qkv.weight @ x[0].reshape(20, 8).T + attn.qkv.bias[:, None]).T.chunk(3, dim=1)
    for i, t in enumerate(tokens):
        biases = [bias_of(attn.attend.bias, [float(t[0] - s[0]), float(t[1] - s[1])]) for s in tokens]
        expected = attn.project.weight @ attend(q[i], list(k), list(v), biases, 2) + attn.project.bias
        torch.testing.assert_close(attn(x)[0][t], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dilation", [1, "span", 2])
@pytest.mark.parametrize("window_embedding", ["avgpool", "maxpool", "dwconv"])
@torch.no_grad()
def test_padded_cells_influence_nothing(monkeypatch, dilation, window_embedding):
    attn = randomized(LocalGlobalAttention(8, num_heads=2, dilation=dilation, window_embedding=window_embedding))
    x = torch.randn(2, 10, 13, 8, dtype=torch.float64)
    expected, pad, calls = attn(x), hlg_layer.pad_map, []

    def pad_with_garbage(t, grid):
        calls.append(grid.padding)
        return pad(t, grid, value=float("nan"))

    for module in (attention, hlg_layer):
        monkeypatch.setattr(module, "pad_map", pad_with_garbage)
    assert torch.equal(attn(x), expected)
    assert calls
    assert dilation == 1 or any(calls[0])


@torch.no_grad()
def test_queries_in_chunks_give_the_same(monkeypatch):
    attn = randomized(LocalGlobalAttention(8, num_heads=2, dilation="span"))
    x = torch.randn(1, 10, 13, 8, dtype=torch.float64)
    expected = attn(x)
    monkeypatch.setattr(attention, "MAX_BIAS_ELEMENTS", 3 * 13 * 4 * 2)
    torch.testing.assert_close(attn(x), expected, rtol=0, atol=1e-12)


def reached(attn, size, token, *, global_step):
    """Cells whose gradient from one output token is not zero; without the global step, W_O is cleared."""
    if not global_step:
        attn.project.weight.data.zero_()
    x = torch.randn(1, *size, 8, dtype=torch.float64, requires_grad=True)
    attn(x)[0, token[0], token[1]].square().sum().backward()
    return {tuple(cell) for cell in x.grad[0].abs().sum(-1).nonzero().tolist()}


@pytest.mark.parametrize(("size", "dilation"), CASES)
def test_reach_of_one_token(size, dilation):
    attn = randomized(LocalGlobalAttention(8, num_heads=2, dilation=dilation))
    token = (size[0] - 1, 3)
    window = next(w for w in windows_of(size, 7, dilation) if token in w)
    everything = {(y, x) for y in range(size[0]) for x in range(size[1])}
    assert reached(attn, size, token, global_step=True) == everything
    assert reached(attn, size, token, global_step=False) == set(window)


def test_projections_are_one_parameter_each_and_used_by_both_steps():
    attn = randomized(LocalGlobalAttention(8, num_heads=2, dilation="span", local_key="own"))
    squares = [name for name, p in attn.named_parameters() if p.shape == (8, 8)]
    assert squares == ["q.weight", "k.weight", "v.weight", "project.weight"]
    x = torch.randn(1, 14, 14, 8, dtype=torch.float64)
    attn(x).square().sum().backward()
    both = [p.weight.grad.clone() for p in (attn.q, attn.k, attn.v)]
    attn.zero_grad()
    attn.project.weight.data.zero_()  # the local step alone
    attn(x).square().sum().backward()
    for grad, p in zip(both, (attn.q, attn.k, attn.v), strict=True):
        assert p.weight.grad.abs().sum() > 0
        assert not torch.allclose(grad, p.weight.grad)


def test_global_keys_use_w_k_in_query_mode():
    attn = randomized(LocalGlobalAttention(8, num_heads=2))
    attn(torch.randn(1, 14, 14, 8, dtype=torch.float64)).sum().backward()
    assert attn.k.weight.grad.abs().sum() > 0


def test_unknown_choices_name_the_near_match():
    with pytest.raises(UserError, match="did you mean 'avgpool'"):
        LocalGlobalAttention(8, num_heads=2, window_embedding="avg_pool")
    with pytest.raises(UserError, match="choose one of: own, query"):
        LocalGlobalAttention(8, num_heads=2, local_key="values")
