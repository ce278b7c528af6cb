"""Many runs as one: launch a plan, let workers claim and train its runs, show how it stands.

launch -> plan.jsonl -> worker (here, pool, slurm) -> runs/<run_id>/result.json -> status
"""
