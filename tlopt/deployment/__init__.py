"""From an artifact to what answers requests elsewhere: a model repository, a bundle, a project in another language.

A target is one file in ``targets``; its name is its file name. It defines

    BACKENDS: Mapping[str, tuple[str, ...]]    kind of artifact -> its runtimes, the default first
    INPUTS: tuple[str, ...]                    what ``--input`` may be, its default first
    USES: frozenset[str]                       the settings that it reads, of max_batch, max_delay_ms and instances
    SEVERAL: bool                              whether several engines of one network become one model
    def examine(job) -> None                   refuse, before anything is written, what it cannot do
    def write(job, folder) -> Written          write the files
    def problem(job) -> str                    why they cannot be checked here; empty if they can
    def check(job, folder) -> Checks           prove that they answer as the artifact does

`tlopt.deployment.deploy` does the rest: what all targets refuse, the draft, deploy.json.
"""
