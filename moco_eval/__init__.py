"""Measure how well a pretrained vision encoder transfers.

Six nouns, and each arrow is one function:

    images --pretrain.train--> checkpoint --load_encoder--> encoder
    encoder --<protocol>.evaluate--> metrics --records.write--> record --tables--> table

Nothing is imported here, so that ``moco-eval --help`` and ``moco-eval table`` start without torch.
"""

__version__ = "0.1.0"
