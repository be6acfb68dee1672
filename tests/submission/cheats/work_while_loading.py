"""too_many_calls: images made with many calls while the checkpoint is loaded."""

from honest import CustomGenerativeModel, create_custom_model  # noqa: F401

honest_load = CustomGenerativeModel.load_state_dict


def load_state_dict(self, state, *args, **kwargs):
    result = honest_load(self, state, *args, **kwargs)
    self.stored = self.sample((4, 3, 64, 64), num_inference_timesteps=50)
    return result


CustomGenerativeModel.load_state_dict = load_state_dict
