"""LGCN: RecBole's LightGCN trained by binary cross-entropy, on a graph of the liked train rows only."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import LightGCN
from recbole.utils import InputType
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recbole_cora.settings.recbole_config import CoraConfig


class LGCN(LightGCN):
    """LightGCN on labels: logit = e_u . e_i, the propagated embeddings. A dislike is a target but never an edge."""

    input_type = InputType.POINTWISE
    scores_are_logits = True

    def __init__(self, config: CoraConfig, dataset: Dataset) -> None:
        super().__init__(config, _LikedGraph(dataset))
        self.LABEL = config["LABEL_FIELD"]
        self._adjacency: Tensor | None = None

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return what RecBole's `forward` returns, with a CSR matrix. Its COO matrix is ten times slower on a CPU."""
        if self._adjacency is None:
            self._adjacency = self.norm_adj_matrix.coalesce().to_sparse_csr()
        layers = [self.get_ego_embeddings()]
        for _ in range(self.n_layers):
            layers.append(_Product.apply(self._adjacency, layers[-1]))
        users, items = torch.stack(layers, dim=1).mean(dim=1).split([self.n_users, self.n_items])
        return users, items

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Return the propagated embeddings of all users [n_users, c] and items [n_items, c], cached while scoring."""
        if self.training or torch.is_grad_enabled():
            self.restore_user_e = self.restore_item_e = None
            return self.forward()
        if self.restore_user_e is None:
            self.restore_user_e, self.restore_item_e = self.forward()
        return self.restore_user_e, self.restore_item_e

    def load_state_dict(self, *args: object, **kwargs: object) -> object:
        """Load weights as torch does, and drop the cached embeddings of the old weights."""
        self.restore_user_e = self.restore_item_e = None
        return super().load_state_dict(*args, **kwargs)

    def predict(self, interaction: Interaction) -> Tensor:
        """Return logits [N]."""
        users, items = self.propagated()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=1)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        loss = binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
        user, item = interaction[self.USER_ID], interaction[self.ITEM_ID]
        ego = self.user_embedding(user), self.item_embedding(item)
        return loss + self.reg_weight * self.reg_loss(*ego, require_pow=self.require_pow)


class _Product(torch.autograd.Function):
    """The product S x for a sparse, symmetric S. The backward pass needs no transpose."""

    @staticmethod
    def forward(ctx: Any, S: Tensor, x: Tensor) -> Tensor:
        ctx.S = S
        return S @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, ctx.S @ grad


class _LikedGraph:
    """The train dataset, except that its interaction matrix holds only the liked rows."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> sp.coo_matrix:
        data = self._dataset
        is_liked = data.inter_feat[data.label_field] > 0.5
        user = data.inter_feat[data.uid_field][is_liked].numpy()
        item = data.inter_feat[data.iid_field][is_liked].numpy()
        return sp.coo_matrix((np.ones(len(user)), (user, item)), shape=(data.user_num, data.item_num)).asformat(form)
