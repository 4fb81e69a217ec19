"""Five steps on two processes against the paper's Algorithm 1 with shuffling BN, written out."""

import copy

import torch
from torch.nn import functional as F

from moco_eval import distributed
from pretrain.moco import MoCo
from pretrain.shuffle import local_share

STEPS, RANKS, BATCH = 5, 2, 16
MOMENTUM, TEMPERATURE = 0.9, 0.2
SGD = {"lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4}


def fresh() -> MoCo:
    torch.manual_seed(0)
    return MoCo("resnet10_small", 8, 48, MOMENTUM, TEMPERATURE, True)


def drawn(step: int):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(2, BATCH, 3, 16, 16, generator=generator), torch.randperm(
        BATCH, generator=generator
    )


def ours():
    """Our model on this process's share; what is left after the last step."""
    model, logits_of_steps = fresh(), []
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, **SGD)
    for step in range(STEPS):
        views, permutation = drawn(step)
        im_q, im_k = (local_share(view) for view in views)
        logits, labels = model(im_q, im_k, permutation=permutation)
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        distributed.average_gradients(parameters)
        optimizer.step()
        logits_of_steps.append(logits.detach())
    return logits_of_steps, model.state_dict()


def by_the_paper():
    """The same with two replicas in one process: rank 0's logits and what it is left with."""
    start = fresh()
    f_q = [copy.deepcopy(start.encoder_q) for _ in range(RANKS)]
    f_k = [copy.deepcopy(start.encoder_k) for _ in range(RANKS)]
    queue, ptr, logits_of_steps = start.queue.clone(), 0, []
    optimizers = [torch.optim.SGD(network.parameters(), **SGD) for network in f_q]
    for step in range(STEPS):
        (x_q, x_k), shuffle = drawn(step)

        # Every forward pass begins with rank 0's buffers.
        for networks in (f_q, f_k):
            for one, other in zip(networks[0].buffers(), networks[1].buffers(), strict=True):
                other.copy_(one)

        # Each rank's keys come from its part of the shuffled batch, and are put back in order.
        for q, k in zip(f_q, f_k, strict=True):
            for p_q, p_k in zip(q.parameters(), k.parameters(), strict=True):
                p_k.data = MOMENTUM * p_k.data + (1 - MOMENTUM) * p_q.data
        parts = x_k[shuffle].chunk(RANKS)
        with torch.no_grad():
            shuffled = [F.normalize(k(part), dim=1) for k, part in zip(f_k, parts, strict=True)]
        keys = torch.cat(shuffled)[torch.argsort(shuffle)]

        # Each rank goes backward from its own queries; gradients are averaged.
        for rank in range(RANKS):
            queries = F.normalize(f_q[rank](x_q.chunk(RANKS)[rank]), dim=1)
            l_pos = torch.einsum("nc,nc->n", queries, keys.chunk(RANKS)[rank])
            logits = torch.cat([l_pos[:, None], queries @ queue], dim=1) / TEMPERATURE
            optimizers[rank].zero_grad()
            F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
            if rank == 0:
                logits_of_steps.append(logits.detach())
        for one, other in zip(f_q[0].parameters(), f_q[1].parameters(), strict=True):
            one.grad = other.grad = (one.grad + other.grad) / RANKS
        for optimizer in optimizers:
            optimizer.step()

        # All keys of the batch replace the oldest of the queue.
        queue = queue.clone()
        queue[:, ptr : ptr + BATCH] = keys.T
        ptr = (ptr + BATCH) % queue.shape[1]
    state = {f"encoder_q.{name}": t for name, t in f_q[0].state_dict().items()}
    state |= {f"encoder_k.{name}": t for name, t in f_k[0].state_dict().items()}
    return logits_of_steps, state | {"queue": queue, "queue_ptr": torch.tensor([ptr])}


def test_two_processes_compute_the_papers_algorithm_for_five_steps(on_ranks):
    expected_logits, expected = by_the_paper()
    logits, state = on_ranks(RANKS, ours)[0]
    for step, (one, other) in enumerate(zip(logits, expected_logits, strict=True)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0, msg=f"logits of step {step}")
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0, msg=name)
