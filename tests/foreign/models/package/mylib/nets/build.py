from src.network import UNet


def build_network(**kwargs):
    return UNet(**{name: kwargs[name] for name in ("ch", "ch_mult", "attn", "num_res_blocks", "dropout") if name in kwargs})
