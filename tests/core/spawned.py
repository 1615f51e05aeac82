"""Pairs of processes: each leaves its results in a file, and the tests look at those."""

import torch
import torch.multiprocessing as mp


def results_of(worker, folder, ranks):
    """What `worker(rank, folder)` has saved as rank0.pt, rank1.pt ... in a folder."""
    mp.spawn(worker, (folder,), nprocs=ranks)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]
