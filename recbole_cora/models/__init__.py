"""The models that this package adds to RecBole's: the label-aware CF baselines, and CoRA."""
