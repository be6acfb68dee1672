"""A stand-in of the course's measure_fid.py."""


def prepare_reference_images(data_root, reference_dir, num_samples=None):
    raise NotImplementedError


def compute_fid(generated_dir, reference_dir, device="cuda", batch_size=64):
    from cleanfid import fid

    return fid.compute_fid(generated_dir, reference_dir, device=device, batch_size=batch_size)
