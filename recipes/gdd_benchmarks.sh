#!/usr/bin/env bash
# The benchmarks of GDD (Zheng and Yang, arXiv:2405.20750) at the settings of its authors: a teacher (edm), its one-step student
# (gdd), 50,000 images of each of three seeds, and their FID beside the published one. Every stage goes on where it was
# interrupted and is skipped when done.
#
#   recipes/gdd_benchmarks.sh --set cifar10 --data_root cifar10-32x32.zip --stats cifar10-32x32.npz
#   recipes/gdd_benchmarks.sh --set ffhq --data_root ffhq-64x64.zip --dry_run   both trainings: what they would be and take
#   recipes/gdd_benchmarks.sh --smoke                                          all stages in minutes on a CPU: drawn pictures
#
# --set        cifar10, cifar10_cond, ffhq, afhqv2, imagenet
# --data_root  the training images: a zip file in EDM's format (docs/labelled.md), or class folders
# --stats      reference statistics, such as EDM's npz; without it they are made here, of all training images
# --teacher    a run to learn from instead of a new teacher
# --teacher_images, --student_images   millions of images seen, where the published numbers are too many
# --discriminator   efficientnet, as near as this kit comes to the paper's, or unet, which needs no outside weights
# --no_freeze  GDD; without the flag GDD-I, which leaves the convolutions of the residual blocks as they are
#
# Further flags: --help, --out DIR (results/gdd_SET), --micro_batch N, --gpus N, --no_fid (no Inception weights at hand),
# --python PROGRAM
set -euo pipefail
cd "$(dirname "$0")/.."

# What is the authors' here: of the teacher EDM's batch, images, learning rate and its warm-up, dropout and average of weights;
# of the student batch, images, both learning rates, no dropout, no augmentation, R1, freezing, and an average of a half-life of
# 5 % of the images seen (which is what their half-lives of 0.5 million, on ImageNet 50 million, come to with their ramp-up).
#
# What this kit cannot match:
# - the networks. EDM's are SongUNet in its form NCSN++ (CIFAR-10, FFHQ, AFHQv2: filtered resampling inside blocks, scaled skip
#   connections, a second path of the input; attention at 16x16) and ADM (ImageNet: attention of several heads, scale-and-shift
#   normalisation). Here the challenge's U-Net has their width, depth and levels of attention, and nothing else of them.
# - the teacher. The authors start from EDM's published pickles; here it is trained from nothing. EDM's augmentation, which the
#   network is told of, is left out but for mirroring, which it is not told of.
# - the discriminator. The paper's looks through two networks (EfficientNet-Lite0, and VGG16 or DeiT) and random projections,
#   with R1 on pixels; here through EfficientNet-Lite0 or the teacher, with R1 on features. Gradients are clipped to norm 1.
# - labels are drawn in turn, not at random; and EDM's own Inception resizes otherwise than pytorch-fid (docs/labelled.md).
# So the published numbers say what the method reached in its authors' hands, not what is to be expected here.

set= data_root= stats= teacher= out= python=python dry_run= smoke= fid=yes freeze=yes gpus=1 micro=()
teacher_images= student_images= discriminator=
while [ $# -gt 0 ]; do
  case $1 in
    --set | --data_root | --stats | --teacher | --teacher_images | --student_images | --discriminator | --out | \
      --micro_batch | --gpus | --python)
      [ $# -gt 1 ] || { echo "error: $1 expects a value; see --help" >&2; exit 2; } ;;&
    --set) set=$2; shift 2 ;;
    --data_root) data_root=$2; shift 2 ;;
    --stats) stats=$2; shift 2 ;;
    --teacher) teacher=$2; shift 2 ;;
    --teacher_images) teacher_images=$2; shift 2 ;;
    --student_images) student_images=$2; shift 2 ;;
    --discriminator) discriminator=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --micro_batch) micro=(--micro_batch "$2"); shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --python) python=$2; shift 2 ;;
    --no_freeze) freeze=; shift ;;
    --no_fid) fid=; shift ;;
    --dry_run) dry_run=yes; shift ;;
    --smoke) smoke=yes; shift ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' recipes/gdd_benchmarks.sh; exit ;;
    *) echo "error: unknown flag $1; see --help" >&2; exit 2 ;;
  esac
done

# ----------------------------------------------------------------------------------------------------- settings of a data set

[ -z "$smoke" ] || set=${set:-cifar10_cond}
conditional=() flip=--flip samples=50000
case $set in
  cifar10 | cifar10_cond)
    network=(--ch 128 --ch_mult 2 2 2 --attn 1 --num_res_blocks 4)
    t_batch=512 t_images=200 t_lr=1e-3 t_dropout=0.13 t_average=0.5
    s_batch=256 s_images=5 s_lr=1e-4 d_lr_scale=1 published=1.54 ;;
  ffhq | afhqv2)
    network=(--ch 128 --ch_mult 1 2 2 2 --attn 2 --num_res_blocks 4)
    t_batch=256 t_images=200 t_lr=2e-4 t_dropout=0.05 t_average=0.5
    s_batch=256 s_images=10 s_lr=2e-5 d_lr_scale=2 published=0.85 ;;
  imagenet)
    network=(--ch 192 --ch_mult 1 2 3 4 --attn 1 2 3 --num_res_blocks 3)
    t_batch=4096 t_images=2500 t_lr=1e-4 t_dropout=0.1 t_average=50
    s_batch=512 s_images=10 s_lr=8e-6 d_lr_scale=5 published=1.16
    conditional=(--class_conditional) flip=--no-flip ;;
  *) echo "error: --set ${set:-is missing}: expected cifar10, cifar10_cond, ffhq, afhqv2 or imagenet" >&2; exit 2 ;;
esac
case $set in
  cifar10_cond) conditional=(--class_conditional) published=1.44 ;;
  afhqv2) t_dropout=0.25 published=1.23 ;;
esac
t_images=${teacher_images:-$t_images} s_images=${student_images:-$s_images} discriminator=${discriminator:-efficientnet}
if [ -n "$smoke" ]; then
  out=${out:-results/gdd_smoke} data_root=${data_root:-$out/pictures-16x16.zip} discriminator=unet samples=24
  network=(--ch 8 --ch_mult 1 2 --attn 1 --num_res_blocks 1 --log_interval 2)
  t_batch=8 t_images=0.000032 s_batch=8 s_images=0.000032 published="none, of drawn pictures"
fi
out=${out:-results/gdd_$set}
if [ -z "$data_root" ]; then
  echo "error: --data_root: name the training images of $set, a zip file in EDM's format; see --help" >&2
  exit 2
fi
steps_of() { # millions of images, batch
  awk -v images="$1" -v batch="$2" 'BEGIN { steps = 1e6 * images / batch; if (steps <= 0) exit 1
    printf "%d\n", int(steps) < steps ? int(steps) + 1 : steps }'
}
if ! t_steps=$(steps_of "$t_images" "$t_batch") || ! s_steps=$(steps_of "$s_images" "$s_batch"); then
  echo "error: --teacher_images $t_images, --student_images $s_images: expected millions of images, such as 5 or 0.5" >&2
  exit 2
fi
warmup=$(awk -v steps="$t_steps" -v batch="$t_batch" \
  'BEGIN { full = 1e7 / batch; short = steps / 20; printf "%d", full < short ? full : short }')
average=(--ema_half_lives 0.05) # of shorter trainings, as EDM's ramp-up has it
read -r longer decay < <(awk -v images="$t_images" -v half="$t_average" -v batch="$t_batch" \
  'BEGIN { printf "%d %.8f\n", (0.05 * images > half), 0.5 ^ (batch / (1e6 * half)) }')
[ "$longer" = 0 ] || average=(--ema_half_lives "decay_$decay" 0.05)

launch=("$python")
[ "$gpus" = 1 ] || launch=("$python" -m torch.distributed.run --standalone --nproc_per_node "$gpus")
common=(--challenge labelled --data_root "$data_root" --label_dropout 0 "${conditional[@]}" "${network[@]}" "${micro[@]}")
teacher_flags=(--method edm "${common[@]}" --batch_size "$t_batch" --num_iterations "$t_steps" --lr "$t_lr"
  --lr_warmup "$warmup" --dropout "$t_dropout" "$flip" "${average[@]}")
student_flags=(--method gdd "${common[@]}" --batch_size "$s_batch" --num_iterations "$s_steps" --lr "$s_lr" --lr_warmup 0
  --d_lr_scale "$d_lr_scale" --dropout 0 --no-flip --ema_half_lives 0.05 --train_levels 1 --r1_gamma 1e-4 --r1_interval 16
  --augment none --discriminator "$discriminator" --feature_size 224)
[ -z "$freeze" ] || student_flags+=(--freeze)

# ------------------------------------------------------------------------------------------------------------------- the plan

settings="$set, data $data_root, teacher ${teacher:-of $t_images million images}, student of $s_images million images"
settings+=", discriminator $discriminator${freeze:+, frozen}"
mkdir -p "$out"
if [ -f "$out/plan.txt" ] && [ -d "$out/teacher" -o -d "$out/student" ] && [ "$(cat "$out/plan.txt")" != "$settings" ]; then
  echo "error: $out was begun as $(cat "$out/plan.txt"); now it is $settings: give the same again, or another --out" >&2
  exit 2
fi
echo "$settings" > "$out/plan.txt"
echo "== $settings ($out)"
if [ -n "$smoke" ] && [ ! -f "$data_root" ]; then
  echo "== draw pictures of two classes and pack them"
  "$python" - "$out/pictures" <<'DRAW'
import sys
from pathlib import Path
import numpy as np
from PIL import Image
rng = np.random.default_rng(0)
for name, colour in (("blue sky", (80, 120, 220)), ("red earth", (200, 80, 40))):
    folder = Path(sys.argv[1]) / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(24):
        pixels = np.clip(np.array(colour) + rng.normal(0, 30, (20, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
DRAW
  "$python" -m src.datasets.pack_zip "$out/pictures" "$data_root" --resolution 16
fi
if [ -n "$dry_run" ]; then
  if [ -z "$teacher" ]; then
    echo "== the teacher"
    "${launch[@]}" train.py "${teacher_flags[@]}" --dry_run
    teacher=$out/teacher
    if [ ! -f "$teacher/last.ckpt" ]; then # an untrained one costs a student as much
      teacher=$out/untrained
      rm -rf "$teacher"
      "$python" train.py "${teacher_flags[@]}" --num_iterations 0 --save_dir "$out" --run_name untrained
    fi
  fi
  echo "== the student"
  "${launch[@]}" train.py "${student_flags[@]}" --teacher "$teacher" --dry_run
  rm -rf "$out/untrained"
  echo "== then $samples images of each of the seeds 0, 1 and 2 at NFE 1; published FID: $published (GDD-I)"
  exit 0
fi

# ----------------------------------------------------------------------------------------------------------------- the stages

train() { # name of the stage, its steps, its flags
  local stage=$1 steps=$2
  shift 2
  if [ -f "$out/$stage/done" ]; then
    echo "== $stage: done already"
    return
  fi
  echo "== $stage"
  "${launch[@]}" train.py "$@" --save_interval "$((steps > 20 ? steps / 20 : 1))" --save_dir "$out" --run_name "$stage" \
    --auto_resume
  if ! grep -q "\"step\": $steps," "$out/$stage/log.jsonl"; then
    echo "== $stage was interrupted: the same command goes on with it"
    exit 1
  fi
  touch "$out/$stage/done"
}
if [ -z "$teacher" ]; then
  train teacher "$t_steps" "${teacher_flags[@]}"
  teacher=$out/teacher
fi
train student "$s_steps" "${student_flags[@]}" --teacher "$teacher"

measured=(--challenge labelled --data_root "$data_root")
if [ -n "$fid" ] && [ -z "$stats" ]; then
  stats=$out/reference.npz
  if [ ! -f "$stats" ]; then
    echo "== reference statistics"
    "$python" measure_fid.py "${measured[@]}" --write_stats "$stats"
  fi
fi
for seed in 0 1 2; do
  folder=$out/samples/seed=$seed
  if [ ! -d "$folder/nfe=1" ]; then
    echo "== sample, seed $seed"
    "${launch[@]}" sampling.py --ckpt_path "$out/student/last.ckpt" --nfe_list 1 --num_samples "$samples" --seed "$seed" \
      --save_dir "$folder"
  fi
  if [ -n "$fid" ] && [ ! -f "$out/fid/seed=$seed.json" ]; then
    echo "== FID, seed $seed"
    "${launch[@]}" measure_fid.py "${measured[@]}" --generated_dir "$folder/nfe=1" --stats "$stats" \
      --output_path "$out/fid/seed=$seed.json"
  fi
done
[ -n "$fid" ] || exit 0
"$python" - "$out" "$set" "$published" <<'SUMMARY' | tee "$out/summary.txt"
import json, sys
from pathlib import Path
out, name, published = Path(sys.argv[1]), *sys.argv[2:]
found = [json.loads((out / "fid" / f"seed={seed}.json").read_text()) for seed in range(3)]
scores = [each["fid_score"] for each in found]
print(f"{name}, FID pytorch-fid, {found[0]['num_generated']} vs {found[0]['stats']}, NFE 1")
print("seeds 0, 1, 2:", ", ".join(f"{score:.3f}" for score in scores))
print(f"minimum of the three, which EDM and GDD report: {min(scores):.3f}; mean: {sum(scores) / 3:.3f}")
print(f"published (GDD-I, the minimum of three, with EDM's networks and Inception): {published}")
SUMMARY
