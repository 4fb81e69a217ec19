"""Pretrain an encoder without labels: images in, checkpoint out."""
