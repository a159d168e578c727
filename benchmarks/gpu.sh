#!/bin/bash
# The first run on a GPU, in at most 8 minutes: bash benchmarks/gpu.sh OUTPUT_FOLDER
# What matters comes first, each part has a limit of its own, and a part that fails does not end the others.
# Where hydra-core is missing and there is no network, its wheels are taken from benchmarks/wheels, made before by
#   pip wheel --no-deps hydra-core==1.3.8 omegaconf==2.3.0 antlr4-python3-runtime==4.9.3 tensorboard polars \
#     polars-runtime-32 tensorboard-data-server werkzeug markdown absl-py grpcio protobuf pytest pytest-xdist \
#     execnet iniconfig pluggy pillow matplotlib -w benchmarks/wheels
set -u
cd "$(dirname "$0")/.."
OUT=${1:-logs/gpu}
PYTHON=${PYTHON:-python}
ACCELERATOR=${ACCELERATOR:-gpu}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1
if ! $PYTHON -c "import hydra, tensorboard, polars" 2>/dev/null && [ -d benchmarks/wheels ]; then
  $PYTHON -m pip install --quiet --no-index --no-deps --target "$OUT/../.gpu-site" benchmarks/wheels/*.whl
  export PYTHONPATH="$PYTHONPATH:$(cd "$OUT/../.gpu-site" && pwd)"
fi

part() {  # NAME SECONDS COMMAND…: run it with a limit, keep what it prints, and note how it ended
  local name=$1 seconds=$2 begun=$SECONDS
  shift 2
  timeout -k 5 "$seconds" "$@" > "$OUT/$name.txt" 2>&1
  echo "$name: exit $? after $((SECONDS - begun)) s" | tee -a "$OUT/summary.txt"
}
train() { part "$1" 60 "$PYTHON" src/train.py "${@:2}" "folder=$OUT/runs/$1"; }

: > "$OUT/summary.txt"
{ nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv; $PYTHON -c "
import platform, torch, lightning, torchmetrics
print(platform.python_version(), torch.__version__, lightning.__version__, torchmetrics.__version__)
print([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])"; } > "$OUT/machine.txt" 2>&1

# 1. the product's own line, and the tutorial's, beside the CPU's
train mae_gpu loss=mae optimizer=sgd "trainer.accelerator=$ACCELERATOR"
train mae_cpu loss=mae optimizer=sgd trainer.accelerator=cpu
train tutorial_gpu experiment=tutorial "trainer.accelerator=$ACCELERATOR"
train tutorial_cpu experiment=tutorial trainer.accelerator=cpu
# 2. what only a GPU can show
part test_gpu 120 "$PYTHON" -m pytest -n 0 -q -p no:cacheprovider \
  tests/template/test_fast.py tests/template/test_module.py -k "the_gpu"
# 3. speed, each job over a bare loop on the same tensors
for words in "" "compile=true"; do
  part "speed${words:+_compile}" 70 "$PYTHON" benchmarks/speed.py --accelerator "$ACCELERATOR" --brief --repeats 1 \
    --only descent --jobs cnn-2048-bf16 cnn-512-bf16 images-4096 images-256 digits-64 --output "$OUT" -- $words
done
# 4. the examples
train gpt experiment=gpt "trainer.accelerator=$ACCELERATOR" trainer.max_epochs=1
train finetune experiment=finetune "trainer.accelerator=$ACCELERATOR" trainer.max_epochs=1
# 5. exported on the GPU, loaded on the CPU
for format in onnx torch_export; do
  part "export_$format" 40 "$PYTHON" src/export.py run="$OUT/runs/mae_gpu" "format=$format" "output=$OUT/model.$format"
done
cat "$OUT/summary.txt"
