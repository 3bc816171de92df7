"""Commands that hand our nets to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from flare_lib.commands.outputs import check_new_folder, wrote


def export(
    nnunet: Annotated[Path, typer.Option(help="Folder to write a results folder of nnU-Net v2 into: nnUNet_results.")],
    weights: Annotated[Path | None, typer.Option(help="Your own weights, .safetensors; default: the fine net.")] = None,
) -> None:
    """Write the packaged fine net as an nnU-Net v2 model, for nnUNetv2_predict or whatever reads such models."""
    check_new_folder(nnunet)

    from flare_lib.network.nnunet_export import CONFIGURATION, DATA_SET, save_nnunet_folder
    from flare_lib.network.weights import load_trained, packaged_weights

    folder = save_nnunet_folder(nnunet, load_trained(weights or packaged_weights("fine")))
    command = f"nnUNetv2_predict -d {DATA_SET} -c {CONFIGURATION} -f 0 -i IMAGES -o LABELS"
    typer.echo(f"{wrote(folder)}; use it with --nnunet, or: nnUNet_results={nnunet} {command}")
