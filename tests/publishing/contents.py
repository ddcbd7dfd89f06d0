"""What lies in folders: made by tlopt, and by others."""

import json

CARD = json.dumps({"schema": 1, "lineage": [], "files": {"model.onnx": "0", "tensorboard/events": "0"}})
DEPLOYMENT = json.dumps({"what": "a deployment of tlopt", "files": {"model.onnx": "0", "selfcheck/a.png": "0"}})
REPORT = json.dumps({"title": "", "rows": [], "notes": [], "breaches": [], "conditions": {}, "details": {}})
SET = {"manifest.csv": "path,label,split,origin\na/1.jpg,a,,\n", "log.csv": "", "a/1.jpg": ""}
SEARCH = {
    "optimize.json": '{"tlopt": "0", "identity": {}, "study": "study.journal"}',
    "report.json": REPORT,
    "report.html": "",
    "study.journal": "",
    "best/artifact.json": CARD,
    "best/model.onnx": "",
    "work/quantize-0123456789abcdef/model.onnx": "",
    "work/.finetune-0123456789abcdef.checkpoint/checkpoint.safetensors": "",
    "work/.finetune-0123456789abcdef.draft-01234567/model.safetensors": "",
    "work/.finetune-0123456789abcdef.lock": "",
    "work/timings/0123456789abcdef.json": "",
    "work/graphs/0123456789abcdef/model.onnx": "",
    "work/graphs/.0123456789abcdef.lock": "",
    "work/graphs/.0123456789abcdef.draft-01234567/artifact.json": "",
    "work/images-0123456789abcdef.csv": "",
    "work/timings/.0123456789abcdef.json.part-01234567": "",
    "work/.images-0123456789abcdef.csv.part-01234567": "",
    "work/.finetune-0123456789abcdef.checkpoint/.checkpoint.safetensors.part-01234567": "",
    "pareto/timm-a-32-px--int8-on-onnxruntime-01234567/artifact.json": CARD,
    "pareto/.timm-a-32-px--int8-on-onnxruntime-01234567.draft-01234567/model.onnx": "",
    ".best.lock": "",
    ".best.draft-01234567/model.onnx": "",
    ".best.old-01234567/artifact.json": CARD,
    ".report.json.part-01234567": "",
    ".optimize.json.part-01234567": "",
    ".report.html.part-01234567": "",
    ".optimize.json.lock": "",
    "study.journal.lock": "",
    "study.journal.lock01234567-89ab-cdef-0123-456789abcdef.rename": "",
}
OURS = {
    "artifact": {"artifact.json": CARD, "model.onnx": "", "tensorboard/events": "", ".DS_Store": ""},
    "unfinished artifact": {"artifact.json": CARD},
    "damaged artifact": {"artifact.json": "{", "model.safetensors": "", "metrics.jsonl": ""},
    "report": {"report.json": REPORT, "report.html": ""},
    "comparison": {"compare.json": REPORT},
    "set": SET,
    "deployment": {"deploy.json": DEPLOYMENT, "model.onnx": "", "selfcheck/a.png": ""},
    "search": SEARCH,
    "damaged search": {**SEARCH, "optimize.json": "{bad"},
}
MAKES = {
    "report": "report",
    "comparison": "report",
    "set": "set",
    "deployment": "deployment",
    "search": "search",
    "damaged search": "search",
}  # what is no artifact
FOREIGN = {
    "notes": {"notes.txt": ""},
    "photos": {"a/1.jpg": "", "b/2.jpg": ""},
    "card of another program": {"artifact.json": '{"files": {}}'},
    "card among photos": {"artifact.json": CARD, "a/1.jpg": ""},
    "damaged card among photos": {"artifact.json": "", "a/1.jpg": ""},
    "notes in an artifact": {"artifact.json": CARD, "model.onnx": "", "notes.txt": ""},
    "damaged card of another program": {"artifact.json": "{'a'", "resnet.onnx": "", "notes.json": ""},
    "page": {"report.html": ""},
    "table of a person": {"manifest.csv": SET["manifest.csv"], "a/1.jpg": ""},
    "set with more": {**SET, "a/new.jpg": ""},
    "deploy.json of another program": {"deploy.json": '{"files": {}}'},
    "deployment with more": {"deploy.json": DEPLOYMENT, "model.onnx": "", "notes.txt": ""},
    "report of another program": {"report.json": "[]"},
    "damaged search of another program": {"optimize.json": "{bad", "report.html": ""},
    "notes in a search": {**SEARCH, "work/notes.txt": ""},
    "images in a search": {**SEARCH, "best/1.jpg": ""},
    "a network in the work of a search": {**SEARCH, "work/mine/model.onnx": ""},
    "a network beside those of a search": {**SEARCH, "work/graphs/model.onnx": ""},
    "a network below the answer of a search": {**SEARCH, "best/mine/model.onnx": "", "best/mine/artifact.json": CARD},
    "a network beside the front of a search": {**SEARCH, "pareto/mine/model.safetensors": ""},
    "a network in an artifact of a search": {**SEARCH, "work/qat-0123456789abcdef/mine/model.onnx": ""},
    "a checkpoint in the work of a search": {**SEARCH, "work/mine/checkpoint.safetensors": ""},
}


# Empty folders that lie in what tlopt made: its own, which killed runs and deleted files leave, and the user's.
LEFT = {
    "artifact": ["tensorboard"],
    "set": ["a"],
    "deployment": ["selfcheck"],
    "search": [
        "pareto", "work/networks", "work/finetune-0123456789abcdee", "work/.prune-0123456789abcdef.draft-01234567",
        "work/.prune-0123456789abcdef.draft-01234567/tensorboard", "work/.qat-0123456789abcdef.checkpoint",
        ".best.old-01234567",
    ],
}  # fmt: skip
MINE = {
    "artifact": ["notes", "tensorboard/mine"],
    "report": ["images"],
    "set": ["b", "a/new"],
    "deployment": ["selfcheck/x/y"],
    "search": ["mine", "work/mine", "best/tensorboard", "work/finetune-0123456789abcdef/mine", ".notes.draft"],
}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
