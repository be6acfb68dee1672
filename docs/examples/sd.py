"""Score distillation from Stable Diffusion in one class: what a course asks for as guidance/sd.py.

It needs torch, diffusers, transformers and, for VSD, peft. The equations are those of sds.py, vsd.py and sdi.py in
src/score_distillation/, where they are explained:

    SDS  Poole et al., DreamFusion, arXiv:2209.14988           get_sds_loss
    VSD  Wang et al., ProlificDreamer, arXiv:2305.16213        get_vsd_loss
    SDI  Lukoianov et al., arXiv:2405.15891                    invert_noise, get_sdi_loss

Text embeddings are (2, L, D): those of the negative prompt, then those of the prompt.
"""

import contextlib
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

MODEL = "stabilityai/stable-diffusion-2-1-base"


class StableDiffusion(nn.Module):
    """A frozen text-to-image model that leads latents (B, 4, 64, 64) to what a text says.

    Args:
        args: with device; precision, "fp16" or "fp32"; loss_type; and, for VSD, lora_rank.
        t_range: of all times, those at which the model is asked.
        pipe: a pipeline of diffusers; by default Stable Diffusion 2.1 is loaded.
    """

    def __init__(self, args, t_range=(0.02, 0.98), pipe=None):
        super().__init__()
        self.device = torch.device(args.device)
        self.dtype = torch.float16 if str(getattr(args, "precision", "fp32")) == "fp16" else torch.float32
        if pipe is None:
            from diffusers import StableDiffusionPipeline

            pipe = StableDiffusionPipeline.from_pretrained(MODEL)
        parts = [part.to(self.device) for part in (pipe.unet, pipe.vae, pipe.text_encoder)]
        parts = [part if part.dtype == self.dtype else part.to(self.dtype) for part in parts]
        self.unet, self.vae, self.text_encoder = (part.eval().requires_grad_(False) for part in parts)
        self.tokenizer = pipe.tokenizer
        self.alphas = pipe.scheduler.alphas_cumprod.float().to(self.device)
        self.num_train_timesteps = len(self.alphas)
        self.min_step, self.max_step = (int(share * self.num_train_timesteps) for share in t_range)
        self.sdi_target = None
        if getattr(args, "loss_type", "") == "vsd":
            self.add_lora(getattr(args, "lora_rank", 4))

    # ------------------------------------------------------------------------------------------------- the model

    def add_lora(self, rank):
        """Put adapters of low rank beside the projections of attention; they alone are trained."""
        from peft import LoraConfig

        layers = ["to_q", "to_k", "to_v", "to_out.0"]
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers))
        for parameter in self.lora_parameters():
            parameter.data = parameter.data.float()

    def lora_parameters(self):
        """What the second optimizer of VSD trains."""
        return [parameter for parameter in self.unet.parameters() if parameter.requires_grad]

    @contextlib.contextmanager
    def without_lora(self):
        """Inside the block the model is the frozen one."""
        adapted = bool(getattr(self.unet, "peft_config", None))
        if adapted:
            self.unet.disable_adapters()
        try:
            yield
        finally:
            if adapted:
                self.unet.enable_adapters()

    @torch.no_grad()
    def get_text_embeds(self, prompt, negative_prompt=""):
        """Embeddings (2, L, D) of two texts."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            [negative_prompt, prompt], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device))[0]

    def get_noise_preds(self, latents_noisy, t, text_embeddings, guidance_scale):
        """noise(negative) + w (noise(prompt) - noise(negative)) at times t (B,)."""
        both = torch.cat([latents_noisy, latents_noisy]).to(self.dtype)
        embeddings = text_embeddings.to(self.dtype).repeat_interleave(len(latents_noisy), dim=0)
        noise = self.unet(both, torch.cat([t, t]), encoder_hidden_states=embeddings).sample.to(latents_noisy.dtype)
        negative, positive = noise.chunk(2)
        return negative + guidance_scale * (positive - negative)

    def alpha_at(self, t):
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at times t (B,), to go with latents."""
        alpha = self.alphas[t].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def add_noise(self, latents, noise, t):
        signal, level = self.alpha_at(t)
        return signal * latents + level * noise

    def predict_x0(self, latents_noisy, noise, t):
        signal, level = self.alpha_at(t)
        return (latents_noisy - level * noise) / signal

    def draw_state(self, latents):
        """Noisy latents at a drawn time, that time, and the noise."""
        t = torch.randint(self.min_step, self.max_step + 1, (len(latents),), device=latents.device)
        noise = torch.randn_like(latents)
        return self.add_noise(latents, noise, t), t, noise

    @torch.no_grad()
    def encode_imgs(self, images):
        """Images (B, 3, 512, 512) in [0, 1] -> latents."""
        found = self.vae.encode((2 * images - 1).to(self.dtype)).latent_dist.mode()
        return found.float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents):
        """Latents -> images in [0, 1]."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.dtype)
        return (self.vae.decode(scaled).sample.float() / 2 + 0.5).clamp(0, 1)

    # ------------------------------------------------------------------------------------------------ the losses

    def get_sds_loss(self, latents, text_embeddings, guidance_scale=7.5):
        """Its gradient is noise_hat - noise (DreamFusion, eq. 3, with w(t) = 1)."""
        with torch.no_grad(), self.without_lora():
            latents_noisy, t, noise = self.draw_state(latents)
            gradient = self.get_noise_preds(latents_noisy, t, text_embeddings, guidance_scale) - noise
        return half_mse(latents, latents - gradient)

    def get_vsd_loss(self, latents, text_embeddings, guidance_scale=7.5, lora_loss_weight=1.0):
        """Its gradient is noise_hat - noise_lora (ProlificDreamer, eq. 9), that of the adapters their own loss (eq. 8).

        The adapted model is not guided, as in the paper.
        """
        with torch.no_grad():
            latents_noisy, t, _ = self.draw_state(latents)
            with self.without_lora():
                pretrained = self.get_noise_preds(latents_noisy, t, text_embeddings, guidance_scale)
            gradient = pretrained - self.get_noise_preds(latents_noisy, t, text_embeddings, 1.0)
        vsd = half_mse(latents, latents - gradient)
        latents_noisy, t, noise = self.draw_state(latents.detach())
        lora = F.mse_loss(self.get_noise_preds(latents_noisy, t, text_embeddings, 1.0), noise)
        return vsd + lora_loss_weight * lora

    @torch.no_grad()
    def invert_noise(self, latents, target_t, text_embeddings, guidance_scale=-7.5, n_steps=10, eta=0.3):
        """The noisy latents at time target_t that DDIM takes to these latents, by its steps in the opposite direction."""
        times = sorted({round(int(target_t) * i / n_steps) for i in range(n_steps + 1)})
        for now, then in pairwise(times):
            t, t_next = (torch.full((len(latents),), time, device=latents.device) for time in (now, then))
            noise = self.get_noise_preds(latents, t, text_embeddings, guidance_scale)
            x0 = self.predict_x0(latents, noise, t)
            if eta:
                clean, noisy = self.alphas[now], self.alphas[then]
                share = eta**2 * (1 - clean) / (1 - noisy) * (1 - noisy / clean) / (1 - noisy)
                noise = (1 - share).sqrt() * noise + share.sqrt() * torch.randn_like(latents)
            latents = self.add_noise(x0, noise, t_next)
        return latents

    def get_sdi_loss(
        self,
        latents,
        text_embeddings,
        guidance_scale=7.5,
        current_iter=0,
        total_iters=500,
        inversion_guidance_scale=-7.5,
        inversion_n_steps=10,
        inversion_eta=0.3,
        update_interval=25,
    ):
        """Its gradient is latents - target; the target is x0 at time t, which falls, and is kept for some iterations."""
        if self.sdi_target is None or current_iter % update_interval == 0:
            span = self.max_step - self.min_step
            time = round(self.max_step - span * current_iter / total_iters)
            with torch.no_grad(), self.without_lora():
                inverted = self.invert_noise(
                    latents.detach(), time, text_embeddings, inversion_guidance_scale, inversion_n_steps, inversion_eta
                )
                t = torch.full((len(latents),), time, device=latents.device)
                noise = self.get_noise_preds(inverted, t, text_embeddings, guidance_scale)
                self.sdi_target = self.predict_x0(inverted, noise, t)
        return half_mse(latents, self.sdi_target)


def half_mse(latents, target):
    """Half the squared distance to a target that is held fixed, so that the gradient is latents - target."""
    return 0.5 * F.mse_loss(latents, target.detach(), reduction="sum")
