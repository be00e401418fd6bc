"""Draw `doctor.png`: the examination of the model that ships, whose page this prints."""

from pathlib import Path

from gnn import load_model
from gnn.commands._common import console
from gnn.doctor.examination import examine
from gnn.doctor.page import page
from gnn.doctor.picture import picture

if __name__ == "__main__":
    report = examine(load_model(), name="the model that ships")
    picture(report, Path(__file__).with_suffix(".png"))
    for part in page(report):
        console().print(part)
