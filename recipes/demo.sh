#!/usr/bin/env bash
# The whole challenge in small: train on toon faces, sample at NFE 1, 2 and 4, measure FID beside the untrained model.
# Minutes on two CPU cores. Usage: recipes/demo.sh [python]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python}
out=results/demo
images=128

rm -rf "$out"
echo "== train the small preset"
"$python" train.py --preset small --data toon --num_iterations 0 --save_dir "$out" --run_name untrained
"$python" train.py --preset small --data toon --save_dir "$out" --run_name trained

echo "== sample"
"$python" sampling.py --ckpt_path "$out/untrained/last.ckpt" --save_dir "$out/untrained/samples" --num_samples "$images" --nfe_list 4
"$python" sampling.py --ckpt_path "$out/trained/last.ckpt" --save_dir "$out/trained/samples" --num_samples "$images"

echo "== measure FID"
for samples in "$out"/*/samples/nfe=*; do
  run=$(dirname "$(dirname "$samples")")
  "$python" measure_fid.py --data toon --generated_dir "$samples" --modes clean --output_path "$run/fid/$(basename "$samples").json"
done

"$python" -m src.evaluation.summary "$out/untrained" "$out/trained"
