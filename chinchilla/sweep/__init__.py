"""Many runs as one: launch a plan, let workers claim and train its cells, show how it stands.

launch -> plan.jsonl -> worker (here, pool, slurm) -> cells/<run_id>/result.json -> status
"""
