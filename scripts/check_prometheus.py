"""Parses files in Prometheus' text format with the official client and prints them as JSON: samples (name, labels, value)
and the types of the metric families. For tests/end_to_end/metrics_file.rs."""

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
