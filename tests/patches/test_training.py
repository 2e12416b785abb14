"""A windowed model trains as any other: LoRA, autocast, sharded parameters, compiled."""

import pytest
import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard

from patches.attention.backends import BACKENDS
from patches.kernels import language
from tests.patches.tiny import VOCAB, windowed_model

HERE = [name for name, backend in BACKENDS.items() if backend.missing() is None]
QUICK = [name for name in HERE if name != "triton" or not language.interpreting()]


def rows(length: int = 40, count: int = 2) -> torch.Tensor:
    return torch.randint(3, VOCAB, (count, length), generator=torch.Generator().manual_seed(7))


def with_lora(backend: str):
    model = windowed_model("llama").train()
    model.set_attn_implementation(f"windowed_{backend}")
    torch.manual_seed(3)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            # At its start of zeros, half of the adapter would have no gradient to compare.
            torch.nn.init.normal_(parameter, std=0.05)
    return adapted


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(
    "backend",
    # Interpreted, the kernels' own tests hold their gradients sooner.
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in HERE],
)
def test_lora_gradients_are_those_of_eager(backend):
    got = []
    for name in (backend, "eager"):
        model = with_lora(name)
        model(rows(), labels=rows()).loss.backward()
        got.append(gradients(model))
    assert got[0] and set(got[0]) == set(got[1])
    for name, gradient in got[0].items():
        torch.testing.assert_close(gradient, got[1][name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("backend", QUICK)
def test_lora_lowers_the_loss(backend):
    model = with_lora(backend)
    optimizer = torch.optim.AdamW((value for value in model.parameters() if value.requires_grad), lr=0.02)
    losses = []
    for _ in range(8):
        loss = model(rows(), labels=rows()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_autocast_trains_near_full_precision(backend):
    model = windowed_model("llama").train()
    model.set_attn_implementation(backend)
    exact = model(rows(), labels=rows()).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(rows(), labels=rows()).loss
    rough.backward()
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.02)
    assert all(value.grad.isfinite().all() for value in model.parameters())


@pytest.fixture
def one_process(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_sharded_parameters_train_the_same(family, one_process):
    plain, sharded = (windowed_model(family).train() for _ in range(2))
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for layer in sharded.base_model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    for model in (plain, sharded):
        model(rows(), labels=rows()).loss.backward()
    for (name, one), other in zip(plain.named_parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad.full_tensor(), msg=name, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.thorough), "sdpa"])
def test_compiling_a_forward_pass_breaks_no_graph(backend):
    model = windowed_model("llama", num_hidden_layers=2)
    model.set_attn_implementation(backend)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        for length in (40, 300):
            expected = model(rows(length), use_cache=False).logits
            torch.testing.assert_close(compiled(rows(length), use_cache=False).logits, expected)


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt_neox", marks=pytest.mark.thorough)])
def test_compiled_training_gives_the_same_gradients(family):
    plain, model = (windowed_model(family, num_hidden_layers=2).train() for _ in range(2))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for each in (plain, compiled):
        each(rows(), labels=rows(), use_cache=False).loss.backward()
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-5, rtol=1e-4)
