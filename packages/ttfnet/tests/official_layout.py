"""The names of the official TTFNet's checkpoints."""


def official(model, layers):
    """A state dict with the official names, from a network of ours; written from the official layout."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "backbone":
            state[key] = value
        elif parts[1] == "convs":
            rest = ".".join(parts[3:]).replace("offset_mask", "conv_offset_mask")
            state[f"bbox_head.deconv_layers.{parts[2]}.0.{rest}"] = value
        elif parts[1] == "norms":
            state[f"bbox_head.deconv_layers.{parts[2]}.1.{parts[3]}"] = value
        elif parts[1] == "shortcuts":
            state[f"bbox_head.shortcut_layers.{parts[2]}.layers.{parts[3]}.{parts[4]}"] = value
        else:
            branch = {"heatmap": "hm", "distances": "wh"}[parts[1]]
            place = int(parts[2]) // 2
            middle = f"{place}.conv" if place < layers[branch] else f"{place}"
            state[f"bbox_head.{branch}.{middle}.{parts[3]}"] = value
    return state
