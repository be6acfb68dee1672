"""A stand-in of the course's dataset.py: it needs kagglehub."""

from pathlib import Path

import kagglehub  # noqa: F401
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


def get_data_iterator(iterable):
    while True:
        yield from iterable


class SimpsonsDataset(Dataset):
    def __init__(self, root, split, transform=None):
        names = Path(f"data/{split}_split.txt").read_text().split()
        self.image_paths = [Path(root) / f"{name}.png" for name in names]
        self.transform = transform

    def __len__(self):
        return len(self.image_paths)

    def __getitem__(self, index):
        image = Image.open(self.image_paths[index]).convert("RGB")
        return self.transform(image) if self.transform else image


class SimpsonsDataModule:
    def __init__(self, root="./data/cropped", batch_size=32, num_workers=4, transform=None):
        self.root, self.batch_size, self.num_workers = root, batch_size, num_workers
        resize = [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        self.transform = transform or transforms.Compose(resize)
        self._set_dataset()

    def _set_dataset(self):
        self.train_ds = SimpsonsDataset(self.root, "train", self.transform)
        self.val_ds = SimpsonsDataset(self.root, "val", self.transform)

    def train_dataloader(self):
        return DataLoader(self.train_ds, self.batch_size, shuffle=True, drop_last=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val_ds, self.batch_size, num_workers=self.num_workers)
