"""What every training shares: exact resumption, ranks, loaders, mixed precision, being stopped."""
