"""Checks the Kubernetes manifests: against Kubernetes' schemas, and against the requirements of ctseg's Jobs.

    check.py [FOLDER]     a folder with base/ and overlays/ [the script's own]; needs kubernetes-validate, and dash or
                          another POSIX shell as /bin/sh, which runs the pods' scripts with a stand-in for ctseg that prints its
                          arguments

Prints what was checked; lists all problems and exits with 1.
"""

import copy
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

# From the first version with backoffLimitPerIndex and podReplacementPolicy enabled to a recent one.
VERSIONS = ["1.29", "1.33", "1.36"]
INTERRUPTED = 75
WRONG_USAGE = 2

# A stand-in for ctseg whose doctor exits as the test requests, and that otherwise prints its arguments.
PRINTS_ITS_ARGUMENTS = """#!/bin/sh
if [ "$1" = doctor ]; then exit "${DOCTOR_EXIT_CODE:-0}"; fi
for argument in "$@"; do echo "$argument"; done
"""


class Problem(Exception):
    """A problem, in one line."""


def expect(holds, what):
    if not holds:
        raise Problem(what)


# The subset of kustomize that these manifests use.


def documents(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def merged(base, patch):
    """A strategic merge: lists of named items are merged by name, other lists replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        result = dict(base)
        for key, value in patch.items():
            result[key] = merged(base[key], value) if key in base else value
        return result
    if isinstance(base, list) and isinstance(patch, list) and all("name" in item for item in base + patch):
        result = {item["name"]: item for item in base}
        for item in patch:
            result[item["name"]] = merged(result.get(item["name"], {}), item)
        return list(result.values())
    return patch


def pod_spec(document):
    """The pod template's spec of a Job or CronJob; none of other kinds."""
    spec = document.get("spec", {})
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]["spec"] if "template" in spec else None


def built(folder):
    """The documents of a kustomization."""
    [settings] = documents(folder / "kustomization.yaml")
    known = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
    expect(set(settings) <= known, f"{folder}: {set(settings) - known} in kustomization.yaml, which this check cannot build")
    result = []
    for resource in settings["resources"]:
        path = (folder / resource).resolve()
        expect(path.exists(), f"{folder}: no {resource}")
        result += built(path) if path.is_dir() else documents(path)
    for patch in settings.get("patches", []):
        expect(set(patch) == {"path", "target"} and set(patch["target"]) == {"kind"}, f"{folder}: patch {patch}")
        [change] = documents(folder / patch["path"])
        change = {key: value for key, value in change.items() if key != "metadata"}
        targets = [index for index, document in enumerate(result) if document["kind"] == patch["target"]["kind"]]
        expect(targets, f"{folder}: {patch['path']} matches no resource")
        for index in targets:
            result[index] = merged(result[index], copy.deepcopy(change))
    for image in settings.get("images", []):
        for document in result:
            for container in (pod_spec(document) or {}).get("containers", []):
                if container["image"] == image["name"]:
                    container["image"] = f"{image['newName']}:{image['newTag']}"
    for document in result:
        if "namespace" in settings and document["kind"] != "Namespace":
            document["metadata"]["namespace"] = settings["namespace"]
    return result


# Checks of every pod.


def action_for(policy, code):
    """What Kubernetes does after this exit code of the container: the action of the first matching rule."""
    for rule in policy["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
    return "Count"


def check_policy(job, names):
    expect(job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs restartPolicy Never")
    policy = job["podFailurePolicy"]
    for rule in policy["rules"]:
        codes = rule.get("onExitCodes")
        if codes:
            expect(codes["containerName"] in names, f"a rule for the unknown container {codes['containerName']}")
            values = codes["values"]
            expect(values == sorted(set(values)) and 0 not in values, f"exit codes {values}: expected ascending order")
    for code, action in ((INTERRUPTED, "Ignore"), (WRONG_USAGE, "FailJob"), (1, "Count"), (3, "Count"), (137, "Count")):
        found = action_for(policy, code)
        expect(found == action, f"exit code {code}: {found}, expected {action}")
    disrupted = [rule["action"] for rule in policy["rules"] if "onPodConditions" in rule]
    expect(disrupted == ["Ignore"], f"disrupted pods: {disrupted}, expected Ignore")
    expect(job["podReplacementPolicy"] == "Failed", "a replacement pod may start before the previous one has ended")


def check_secure(pod, container):
    secure = pod["securityContext"]
    expect(secure["runAsNonRoot"] is True and secure["runAsUser"] == 10001, "the user is not the image's user 10001")
    expect(secure["seccompProfile"] == {"type": "RuntimeDefault"}, "no seccomp profile")
    expect(pod["automountServiceAccountToken"] is False, "pods get a token for the cluster")
    own = container["securityContext"]
    expect(own["allowPrivilegeEscalation"] is False, "privilege escalation is allowed")
    expect(own["readOnlyRootFilesystem"] is True, "the root file system is writable")
    expect(own["capabilities"] == {"drop": ["ALL"]}, "capabilities are not dropped")
    for variable in container["env"]:
        secret = re.search("token|password|secret|credential", variable["name"], re.IGNORECASE)
        expect(not (secret and "value" in variable), f"a secret in the manifest: {variable['name']}")


def check_storage(pod, container, claims):
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    expect(set(volumes) == set(mounted), f"volumes {set(volumes)}, mounted are {set(mounted)}")
    for volume in volumes.values():
        claim = volume.get("persistentVolumeClaim")
        expect(claim is None or claim["claimName"] in claims, f"no claim {claim}")
    expect(mounted["data"].get("readOnly") is True, "the data is writable")
    expect(mounted["runs"]["mountPath"] == "/runs" and not mounted["runs"].get("readOnly"), "/runs is not writable")
    expect("emptyDir" in volumes["tmp"] and mounted["tmp"]["mountPath"] == "/tmp", "no /tmp")


def check_resources(container, gpu):
    limits, requests = (container["resources"][part] for part in ("limits", "requests"))
    expect(limits["cpu"] == requests["cpu"] and limits["cpu"].isdigit(), f"cpu {limits['cpu']}: expected whole cores")
    expect(limits["memory"] == requests["memory"], "the memory request and limit differ")
    device = [variable["value"] for variable in container["env"] if variable["name"] == "CTSEG_DEVICE"]
    expect(device == (["libtorch:cuda:0"] if gpu else ["flex"]), f"CTSEG_DEVICE is {device}")
    expect(limits.get("nvidia.com/gpu") == ("1" if gpu else None), f"GPUs: {limits.get('nvidia.com/gpu')}")
    tag = "cuda" if gpu else "cpu"
    expect(container["image"].endswith(f":{tag}"), f"image {container['image']}: expected the tag {tag}")


# The pods' scripts, as the kubelet and the shell interpret them.


def run_script(container, variables, runs):
    """Runs the script of a pod; `runs` replaces /runs."""
    expect(container["command"] == ["/bin/sh", "-c"] and len(container["args"]) == 1, "expected one script for /bin/sh")
    text = container["args"][0]
    # The kubelet replaces $(NAME) by the pod's variables, and $$ by $.
    names = {variable["name"] for variable in container["env"]}
    expect("$$" not in text and not any(f"$({name})" in text for name in names), "the kubelet would change the script")
    given = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ctseg"
        program.write_text(PRINTS_ITS_ARGUMENTS)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        text = text.replace("/runs", str(runs))
        environment = {"PATH": folder, **given, **variables}
        return subprocess.run(["/bin/sh", "-euc", text], env=environment, capture_output=True, text=True, timeout=60)


def arguments_of(container, variables, runs):
    """The arguments that the script passes to ctseg."""
    ended = run_script(container, variables, runs)
    expect(ended.returncode == 0, f"its script fails: {ended.stderr.strip()}")
    return [argument.replace(str(runs), "/runs") for argument in ended.stdout.splitlines()]


def after(arguments, flag):
    expect(arguments.count(flag) == 1, f"{flag} in {arguments}: expected once")
    return arguments[arguments.index(flag) + 1]


def check_doctor(container):
    ended = run_script(container, {"DOCTOR_EXIT_CODE": "1", "JOB_UID": "1-2-3", "JOB_COMPLETION_INDEX": "0"}, "/runs")
    found = (ended.returncode, ended.stdout)
    expect(found == (1, ""), f"if ctseg doctor finds a fault, the script ends with {found}; expected exit code 1 and no other command")


def check_shards(job, container):
    expect(job["completionMode"] == "Indexed", "not an Indexed Job")
    expect("backoffLimit" not in job and job["backoffLimitPerIndex"] >= 0, "failures of one shard would end the others")
    count = job["completions"]
    expect(1 <= job["parallelism"] <= count, f"parallelism {job['parallelism']} of {count}")
    shards = []
    for index in range(count):
        arguments = arguments_of(container, {"JOB_COMPLETION_INDEX": str(index)}, "/runs")
        expect(arguments[0] == "predict", f"runs ctseg {arguments[0]}")
        shards.append(after(arguments, "--shard"))
    expected = [f"{number}/{count}" for number in range(1, count + 1)]
    expect(shards == expected, f"shards {shards}, expected {expected}")


def check_fit(stage, container):
    labels = [
        variable["valueFrom"]["fieldRef"]["fieldPath"] for variable in container["env"] if variable["name"] == "JOB_UID"
    ]
    expect(labels == ["metadata.labels['batch.kubernetes.io/controller-uid']"], f"JOB_UID is {labels}")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        uid = {"JOB_UID": "1-2-3"}
        started = arguments_of(container, uid, runs)
        expect(started[0] == "fit" and after(started, "--stage") == stage, f"starts with ctseg {started}")
        expect(after(started, "--runs") == "/runs/1-2-3", f"the Job's runs are in {after(started, '--runs')}")
        for name, whole in (("20260101-a", True), ("20260102-b", True), ("20260103-c", False)):
            (runs / "1-2-3" / name).mkdir(parents=True)
            if whole:
                (runs / "1-2-3" / name / "run.toml").touch()
        resumed = arguments_of(container, uid, runs)
        expect(resumed == ["fit", "--resume", "/runs/1-2-3/20260102-b"], f"resumes with ctseg {resumed}")
        other = arguments_of(container, {"JOB_UID": "4-5-6"}, runs)
        expect("--resume" not in other, "resumes another Job's run")


def check_job(document, job, claims, gpu):
    name, pod = document["metadata"]["name"], pod_spec(document)
    expect(len(pod["containers"]) == 1, "several containers")
    [container] = pod["containers"]
    check_policy(job, [container["name"]])
    check_secure(pod, container)
    check_storage(pod, container, claims)
    check_resources(container, gpu)
    check_doctor(container)
    expect(document["spec"]["suspend"] is True, "starts as soon as it is applied")
    # Longer than a volume, or a step and its checkpoint.
    expect(pod["terminationGracePeriodSeconds"] >= 120, "the grace period is too short")
    if name == "ctseg-predict":
        check_shards(job, container)
    elif name.startswith("ctseg-fit-"):
        check_fit(name.removeprefix("ctseg-fit-"), container)
        expect(container["volumeMounts"][1].get("readOnly") is not True, "the model cannot be published")
    else:
        expect(document["spec"]["concurrencyPolicy"] == "Forbid", "concurrent runs are allowed")
        expect(arguments_of(container, {}, "/runs")[0] == "predict", "does not run ctseg predict")


def check_overlay(folder, problems):
    gpu = folder.name == "gpu"
    result = built(folder)
    claims = {document["metadata"]["name"] for document in result if document["kind"] == "PersistentVolumeClaim"}
    seen = set()
    for document in result:
        where = f"{folder.name}: {document['kind']} {document['metadata']['name']}"
        seen.add((document["kind"], document["metadata"]["name"]))
        try:
            for version in VERSIONS:
                kubernetes_validate.validate(document, version, strict=True)
            if document["kind"] in ("Job", "CronJob"):
                job = document["spec"] if document["kind"] == "Job" else document["spec"]["jobTemplate"]["spec"]
                check_job(document, job, claims, gpu)
            elif document["kind"] == "PersistentVolumeClaim":
                modes = document["spec"]["accessModes"]
                expect(modes == ["ReadWriteMany"], f"access modes {modes}: expected ReadWriteMany, for pods on several nodes")
            else:
                expect(document["kind"] == "Namespace", "an unexpected kind")
        except (Problem, KeyError, kubernetes_validate.ValidationError) as error:
            message = str(error).splitlines()[0]
            problems.append(f"{where}: {'no ' if isinstance(error, KeyError) else ''}{message}")
    wanted = {("Job", name) for name in ("ctseg-fit-1", "ctseg-fit-2", "ctseg-predict")} | {("CronJob", "ctseg-nightly")}
    problems += [f"{folder.name}: no {kind} {name}" for kind, name in sorted(wanted - seen)]
    return len(result)


def main():
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    problems = []
    listed = {path.name for path in (root / "base").glob("*.yaml")} - {"kustomization.yaml"}
    [base] = documents(root / "base" / "kustomization.yaml")
    if listed != set(base["resources"]):
        problems.append(f"base: files {sorted(listed ^ set(base['resources']))} are not in both folder and kustomization")
    count = 0
    for overlay in ("cpu", "gpu"):
        try:
            count += check_overlay(root / "overlays" / overlay, problems)
        except Problem as problem:
            problems.append(str(problem))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{count} objects in 2 overlays are valid for Kubernetes {', '.join(VERSIONS)} and meet ctseg's requirements")


if __name__ == "__main__":
    main()
