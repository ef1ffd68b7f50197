"""Reads files in Prometheus' text format with its own client's parser and prints their samples as JSON: a list of
name, labels, value, and the families with their types. For tests/end_to_end/metrics_file.rs."""

import json
import sys

from prometheus_client.parser import text_fd_to_metric_families

files = []
for path in sys.argv[1:]:
    samples, types = [], {}
    with open(path, encoding="utf-8") as file:
        for family in text_fd_to_metric_families(file):
            assert family.documentation, f"{family.name} has no help"
            types[family.name] = family.type
            samples += [[sample.name, sample.labels, sample.value] for sample in family.samples]
    files.append({"samples": samples, "types": types})
json.dump(files, sys.stdout)
