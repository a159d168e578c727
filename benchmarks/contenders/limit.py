"""The limit: a bare loop on tensors in memory. No metrics, no validation, nothing printed but the epoch."""

import torch
from speed_arguments import device, job, threads

if threads:
    torch.set_num_threads(threads)
(inputs, targets), _ = job.splits()
inputs, targets = inputs.to(device), targets.to(device)
model, criterion = job.model().to(device), job.criterion()
if job.channels:
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
optimizer = torch.optim.Adam(model.parameters(), fused=True)
for epoch in range(job.epochs):
    order = torch.randperm(len(targets), device=device)
    for rows in order.split(job.batch_size):
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=job.half):
            loss = criterion(model(inputs[rows]), targets[rows])
        loss.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"Epoch {epoch + 1}", flush=True)
