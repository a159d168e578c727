"""The tutorial's loop as it is written: DataLoader, tqdm, sums by .item(), a line after each epoch."""

import torch
from speed_arguments import device, job
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

train_data, val_data = job.splits()
train_loader = DataLoader(TensorDataset(*train_data), job.batch_size, shuffle=True)
val_loader = DataLoader(TensorDataset(*val_data), job.batch_size)
model, criterion = job.model().to(device), job.criterion()
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

for epoch in range(job.epochs):
    model.train()
    train_loss, train_correct, train_total = 0.0, 0, 0
    for batch in tqdm(train_loader, desc=f"Epoch {epoch + 1}/{job.epochs}", leave=False):
        inputs, labels = batch[0].to(device), batch[1].to(device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * inputs.size(0)
        train_correct += (outputs.argmax(1) == labels).sum().item() if not job.real_values else 0
        train_total += labels.size(0)

    model.eval()
    val_loss, val_correct, val_total = 0.0, 0, 0
    with torch.no_grad():
        for batch in val_loader:
            inputs, labels = batch[0].to(device), batch[1].to(device)
            outputs = model(inputs)
            val_loss += criterion(outputs, labels).item() * inputs.size(0)
            val_correct += (outputs.argmax(1) == labels).sum().item() if not job.real_values else 0
            val_total += labels.size(0)
    print(
        f"Epoch {epoch + 1}/{job.epochs}, Train Loss: {train_loss / train_total:.4f}, "
        f"Train Acc: {train_correct / train_total:.4f}, Val Loss: {val_loss / val_total:.4f}, "
        f"Val Acc: {val_correct / val_total:.4f}",
        flush=True,
    )
