"""Stable Diffusion (Rombach et al., arXiv:2112.10752) as a prior, through the package diffusers where that is installed."""

import copy
from typing import Any

import torch
from torch import nn

from src.common.cli import UserError
from src.score_distillation.prior import Condition, Prior, shared_copy

MODEL = "stabilityai/stable-diffusion-2-1-base"
INSTALL = "pip install -r requirements-score_distillation.txt"
ADAPTED_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]  # of every attention block


class StableDiffusion(Prior):
    """A text-to-image pipeline of diffusers, frozen. Its images are 8 times as high and wide as its latents.

    Args:
        pipe: with unet, vae, text_encoder, tokenizer and a scheduler whose alphas_cumprod are those of the training.
        dtype: of the networks; latents and what is predicted are float32.

    Raises UserError for a network that predicts something else than the noise or v.
    """

    def __init__(self, pipe: Any, device: torch.device, dtype: torch.dtype = torch.float32):
        self.device, self.dtype = device, dtype
        parts = [part.to(device) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
        parts = [part if part.dtype == dtype else part.to(dtype) for part in parts]
        self.unet, self.vae, self.text_encoder = (part.eval().requires_grad_(False) for part in parts)
        self.tokenizer = pipe.tokenizer
        self.alpha_bar = pipe.scheduler.alphas_cumprod.float().to(device)
        self.prediction = pipe.scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise UserError(f"the model predicts {self.prediction}; expected epsilon or v_prediction")
        size = self.unet.config.sample_size
        self.shape = (self.unet.config.in_channels, size, size)

    @classmethod
    def load(cls, model: str, device: torch.device, dtype: torch.dtype) -> "StableDiffusion":
        """The pipeline of this name on Hugging Face, or in this folder. A token is taken from the usual login.

        Raises UserError where diffusers is not installed, or the weights cannot be had.
        """
        try:
            from diffusers import StableDiffusionPipeline

            pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None, requires_safety_checker=False)
        except ImportError as error:
            raise UserError(f"a text prompt needs the packages diffusers and transformers: {INSTALL}") from error
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise UserError(
                f"--model {model}: no weights to be had ({reason}); log in with hf auth login, name a local folder, or distil "
                "a checkpoint of this kit with --prior"
            ) from error
        return cls(pipe, device, dtype)

    @torch.no_grad()
    def encode_condition(self, wanted: str, negative: str = "") -> Condition:
        """The embeddings (1, L, D) of two texts; tokens over the encoder's length are cut off."""
        options = {"padding": "max_length", "max_length": self.tokenizer.model_max_length, "truncation": True}
        tokens = (self.tokenizer([text], **options, return_tensors="pt") for text in (wanted, negative))
        return Condition(*(self.text_encoder(each.input_ids.to(self.device))[0] for each in tokens))

    def network_noise(self, xt: torch.Tensor, t: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        output = self.unet(xt.to(self.dtype), t, encoder_hidden_states=embedding).sample.to(xt.dtype)
        if self.prediction == "epsilon":
            return output
        signal, level = self.signal_and_noise(t, xt)
        return level * xt + signal * output

    def adapted(self, rank: int) -> tuple["StableDiffusion", list[nn.Parameter]]:
        """Adapters by the package peft, with alpha = rank and a Gaussian start, in float32. Raises UserError without it."""
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise UserError(f"--loss_type vsd needs the package peft: {INSTALL}") from error
        other = copy.copy(self)
        other.unet = shared_copy(self.unet)
        other.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=ADAPTED_LAYERS))
        parameters = [parameter for parameter in other.unet.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.data = parameter.data.float()
        return other, parameters

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        scaled = (latents / self.vae.config.scaling_factor).to(self.dtype)
        return torch.cat([self.vae.decode(each[None]).sample.float() for each in scaled]).clamp(-1, 1)
