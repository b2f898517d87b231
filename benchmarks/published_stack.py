"""The layer stack of the published force network as its code builds it: the yardstick of the speed measurements."""

import torch
from torch import nn

WIDTH, FEED_FORWARD, LAYERS, HEADS, DROPOUT = 256, 512, 8, 8, 0.05


class PublishedLayer(nn.Module):
    """Post-norm encoder layer around `nn.MultiheadAttention`, which returns its averaged weights."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(WIDTH, FEED_FORWARD), nn.Linear(FEED_FORWARD, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(DROPOUT) for _ in range(3))

    def forward(self, states: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        attended, weights = self.self_attn(states, states, states, key_padding_mask=padding, need_weights=True)
        states = self.norm1(states + self.dropout1(attended))
        fed = self.linear2(self.dropout(torch.relu(self.linear1(states))))
        return self.norm2(states + self.dropout2(fed)), weights


class PublishedStack(nn.Module):
    """Tokens (B, N, 12) to normalised forces (B, N, 3), keeping the attention weights of every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.lin3 = nn.Linear(12, 128), nn.Linear(128, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.embed_norm, self.norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList(PublishedLayer() for _ in range(LAYERS))
        self.output_linear = nn.Linear(WIDTH, 3)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        states = self.lin3(torch.relu(self.lin2(torch.relu(self.lin1(tokens)))))
        states, weights = self.dropout(self.embed_norm(states)), []
        for layer in self.layers:
            states, attention = layer(states, padding)
            weights.append(attention)
        return self.output_linear(self.norm(states)), weights
