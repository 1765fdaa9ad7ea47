"""Weights of the four modalities, without torch."""

__all__ = ["FUSION_WEIGHTS"]

#: Weights of the late fusion in the published configuration.
FUSION_WEIGHTS = {"place": 0.5, "cast": 0.2, "act": 0.2, "aud": 0.1}
