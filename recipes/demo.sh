#!/usr/bin/env bash
# The whole challenge in small: train on toon faces, sample at NFE 1, 2 and 4, measure FID beside the untrained model.
# Minutes on two CPU cores. Usage: recipes/demo.sh [python] [--smoke]
# With --smoke two steps of a smaller network, to see that everything runs.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
out=results/demo images=128 small=(--preset small --data toon)
if [ "${2:-}" = --smoke ]; then
  out=results/demo_smoke images=12 small+=(--ch 8 --num_iterations 2)
fi

rm -rf "$out"
echo "== train the small preset"
"$python" train.py "${small[@]}" --num_iterations 0 --save_dir "$out" --run_name untrained
"$python" train.py "${small[@]}" --save_dir "$out" --run_name trained

echo "== sample"
"$python" sampling.py --ckpt_path "$out/untrained/last.ckpt" --save_dir "$out/untrained/samples" --num_samples "$images" --nfe_list 4
"$python" sampling.py --ckpt_path "$out/trained/last.ckpt" --save_dir "$out/trained/samples" --num_samples "$images"

echo "== measure FID"
for samples in "$out"/*/samples/nfe=*; do
  run=$(dirname "$(dirname "$samples")")
  "$python" measure_fid.py --data toon --generated_dir "$samples" --modes clean --output_path "$run/fid/$(basename "$samples").json"
done

"$python" -m src.evaluation.compare_runs "$out/untrained" "$out/trained"
