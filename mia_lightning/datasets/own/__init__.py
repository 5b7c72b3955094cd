"""A user's own torch `Dataset`, `DataLoader` or `LightningDataModule` as records."""
