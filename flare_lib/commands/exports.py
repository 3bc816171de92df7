"""Commands that hand our nets to other programs."""

from pathlib import Path
from typing import Annotated

import typer

from flare_lib.commands.outputs import check_new_folder, wrote


def export(
    nnunet: Annotated[
        Path, typer.Option(help="Folder in which to write the model, as in nnU-Net v2's nnUNet_results.")
    ],
    weights: Annotated[
        Path | None, typer.Option(help="Your own weights, .safetensors. Default: the packaged fine net.")
    ] = None,
) -> None:
    """Write the packaged fine net as an nnU-Net v2 model, for nnUNetv2_predict or anything else that reads them."""
    check_new_folder(nnunet)

    from flare_lib.network.nnunet_export import CONFIGURATION, DATA_SET, save_nnunet_folder
    from flare_lib.network.weights import load_trained, packaged_weights

    folder = save_nnunet_folder(nnunet, load_trained(weights or packaged_weights("fine")))
    command = f"nnUNetv2_predict -d {DATA_SET} -c {CONFIGURATION} -f 0 -i IMAGES -o LABELS"
    typer.echo(f"{wrote(folder)}; use it with --nnunet, or: nnUNet_results={nnunet} {command}")
