# Decodes a data set once. The marker (title, images and digest of each part) is written last, so it is the input of
# rules that train or evaluate. config["data"] is the data root; without it, the environment's STILLPOINT_DATA, or data.
# Changed raw files are read again.
from stillpoint.core.config.catalogue import data_root
from stillpoint.pipelines.workflow import raw_data


DATA_ROOT = data_root(config.get("data") or None)


rule prepare:
    output:
        f"{DATA_ROOT}/prepared/{{dataset}}.json",
    log:
        "logs/prepare/{dataset}.log",
    benchmark:
        "logs/prepare/{dataset}.tsv"
    wildcard_constraints:
        dataset=r"\w+",
    threads: 1
    params:
        root=str(DATA_ROOT),
        raw=lambda w: raw_data(w.dataset, DATA_ROOT),
    shell:
        "logged {log:q} prepare {wildcards.dataset:q} --root {params.root:q}"
