"""A bare loop in C++ by the same kernels of torch: forward and backward by hand, and fused Adam.

What an eager loop in Python would take if Python, the dispatcher's autograd and its graph cost nothing.
Written for the MLPs alone. Compiled once; torch keeps it.
"""

import torch
from speed_arguments import job, threads
from torch.utils.cpp_extension import load_inline

SOURCE = """
#include <torch/extension.h>
using at::Tensor;

// one epoch of an MLP with one hidden layer; weights: W1 b1 W2 b2
void epoch(Tensor inputs, Tensor targets, Tensor order, int64_t size, bool classes,
           std::vector<Tensor> weights, std::vector<Tensor> means, std::vector<Tensor> squares,
           std::vector<Tensor> steps) {
  c10::InferenceMode guard;
  for (const Tensor& rows : order.split(size)) {
    Tensor x = inputs.index_select(0, rows), y = targets.index_select(0, rows), slope;
    Tensor before = at::addmm(weights[1], x, weights[0].t()), hidden = at::relu(before);
    Tensor outputs = at::addmm(weights[3], hidden, weights[2].t());
    double samples = x.size(0);
    if (classes) {
      Tensor logs = at::_log_softmax(outputs, 1, false);
      auto [loss, total] = at::nll_loss_forward(logs, y, {}, at::Reduction::Mean, -100);
      Tensor one = at::ones({}, loss.options());
      Tensor back = at::nll_loss_backward(one, logs, y, {}, at::Reduction::Mean, -100, total);
      slope = at::_log_softmax_backward_data(back, logs, 1, logs.scalar_type());
    } else {
      Tensor difference = outputs - y, loss = difference.abs().sum() / samples;
      slope = difference.sign() / samples;
    }
    Tensor inner = at::threshold_backward(slope.mm(weights[2]), hidden, 0);
    std::vector<Tensor> gradients = {inner.t().mm(x), inner.sum(0), slope.t().mm(hidden), slope.sum(0)};
    at::_foreach_add_(steps, 1);
    at::_fused_adam_(weights, gradients, means, squares, {}, steps, 1e-3, 0.9, 0.999, 0, 1e-8, false, false);
  }
}
"""

torch.set_num_threads(threads)
(inputs, targets), _ = job.splits()
inputs = inputs.flatten(1).contiguous()
loop = load_inline("descent_cpp_limit", SOURCE, functions=["epoch"], extra_cflags=["-O3"])
weights = [p.detach().clone() for p in job.model().parameters()]
means, squares = ([torch.zeros_like(w) for w in weights] for _ in range(2))
steps = [torch.zeros(()) for _ in weights]
for epoch in range(job.epochs):
    order = torch.randperm(len(targets))
    loop.epoch(inputs, targets, order, job.batch_size, not job.real_values, weights, means, squares, steps)
    print(f"Epoch {epoch + 1}", flush=True)
