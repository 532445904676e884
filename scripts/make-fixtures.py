#!/usr/bin/env python3
"""Makes the PyTorch fixtures that the Rust tests read.

    python3 -m venv /tmp/torch
    /tmp/torch/bin/pip install torch torchvision numpy safetensors transformers gguf sentencepiece sacrebleu
    /tmp/torch/bin/python scripts/make-fixtures.py [NAME]...

Without names it makes them all. `scripts/fixtures/core.py` describes the format. The files are committed,
so that the tests need no Python; run this again only to add cases.
"""

import sys

import numpy as np
import torch
from fixtures import (
    bleu,
    gguf_files,
    layers,
    losses,
    metrics,
    npy,
    ops,
    optim,
    pretrained,
    recurrent,
    resnets,
    sampling,
    tokenizers_,
    training,
    transformers,
)

MAKERS = {
    "ops": ops.make,
    "layers": layers.make,
    "losses": losses.make,
    "recurrent": recurrent.make,
    "optim": optim.make,
    "metrics": metrics.make,
    "bleu": bleu.make,
    "training": training.make,
    "npy": npy.make,
    "transformers": transformers.make,
    "resnets": resnets.make,
    "gguf": gguf_files.make,
    "sampling": sampling.make,
    "pretrained": pretrained.make,
    "tokenizers": tokenizers_.make,
}


def main():
    names = sys.argv[1:] or list(MAKERS)
    unknown = [name for name in names if name not in MAKERS]
    if unknown:
        sys.exit(f"make-fixtures: no fixture named {', '.join(unknown)}; known: {', '.join(MAKERS)}")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, numpy {np.__version__}")
    for name in names:
        MAKERS[name]()


if __name__ == "__main__":
    main()
