#!/usr/bin/env bash
# What one GPU can do in half an hour: check its pictures against the CPU's, time pairs, pre-training and a federation,
# pre-train encoders.
#
#   bash experiments/one_gpu.sh FOLDER [MINUTES]
#
# MINUTES (default 25) bounds the whole. The same command goes on where it was stopped; FOLDER/report.txt says what came
# of it. Environment: PAIRS (default 1280000 a run), SIDE_BY_SIDE (runs that share the GPU, default 6), FLAGS (further
# options of run_pretrain.py for every run), PYTHON, and for a rehearsal on a CPU DEVICE=cpu CLIENTS=2x64 SIZES=32 STEPS=1.
set -u
cd "$(dirname "$0")/.."
folder=${1:?usage: bash experiments/one_gpu.sh FOLDER [MINUTES]} minutes=${2:-25}
python=${PYTHON:-python} pairs=${PAIRS:-1280000} side_by_side=${SIDE_BY_SIDE:-6}
mkdir -p "$folder" || exit 2
report=$folder/report.txt
export OMP_WAIT_POLICY=passive

runs=(
    "simsiam --method simsiam"
    "moco --method moco"
    "simclr --method simclr"
    "simsiam-paper --method simsiam --preset paper"
    "simclr-seed1 --method simclr --seed 1"
    "resnet18-64px --method simclr --arch resnet18 --size 64"
)

left() { echo $((minutes * 60 - SECONDS)); }

once() { # NAME COMMAND...: its output goes to FOLDER/NAME.txt; a step that has succeeded is not repeated
    local name=$1 && shift
    [ -e "$folder/$name.txt" ] && return
    [ "$(left)" -gt 0 ] || return
    echo "== $name"
    if timeout "$(left)" "$@" >"$folder/$name.part" 2>&1; then
        mv "$folder/$name.part" "$folder/$name.txt"
    else
        echo "$name failed or ran out of time: $folder/$name.part" && tail -n 3 "$folder/$name.part"
    fi
}

# SIGTERM has a run save its state and end.
pretrain() { # NAME FLAGS...
    local name=$1 && shift
    timeout --signal=TERM --kill-after=60 "$(left)" "$python" run_pretrain.py --preset short --epochs 5 \
        --pairs-per-epoch $((pairs / 5)) --save-every 1 --log-every 100 --threads 1 --output "$folder/$name.pt" \
        --run-dir "$folder/$name" "$@" ${FLAGS:-} >>"$folder/$name.log" 2>&1
}

once machine "$python" -c "import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
once pictures "$python" -m benchmarks.pictures ${SIZES:+--sizes $SIZES}
once pairs "$python" -m benchmarks.pairs --turns 3 ${SIZES:+--sizes $SIZES}
once pretraining "$python" -m benchmarks.pretraining --turns 1 ${STEPS:+--steps $STEPS}

# Several small networks fill a GPU that one leaves idle; with MPS their kernels run at the same time.
mps() { command -v nvidia-cuda-mps-control >/dev/null; }
# A control program that runs already is somebody else's and is left alone.
if mps && nvidia-cuda-mps-control -d; then trap 'echo quit | nvidia-cuda-mps-control' EXIT; fi
once federation "$python" -m benchmarks.federation --device "${DEVICE:-cuda}" --precision bf16 --turns 1 --rounds 6 \
    --cases "${CLIENTS:-10x1000}" --actors 8 --engines "plain loop" "in process" workers

for run in "${runs[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$side_by_side" ]; do sleep 1; done
    [ "$(left)" -gt 30 ] || break
    echo "== pre-training ${run%% *}"
    # shellcheck disable=SC2086
    pretrain $run &
done
wait

{
    for step in machine pictures pairs pretraining federation; do
        echo "== $step" && cat "$folder/$step.txt" 2>/dev/null || echo "not done"
    done
    for run in "${runs[@]}"; do
        name=${run%% *}
        echo "== $name"
        if [ -e "$folder/$name.pt" ]; then
            tr '\r' '\n' <"$folder/$name.log" | grep -a "pairs in" | tail -n 1
        else
            echo "not finished: $(tr '\r' '\n' <"$folder/$name.log" 2>/dev/null | tail -n 1)"
        fi
    done
} >"$report"
cat "$report"
for run in "${runs[@]}"; do [ -e "$folder/${run%% *}.pt" ] || exit 1; done
