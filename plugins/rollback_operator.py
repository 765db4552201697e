"""The operator of the roll-back form: one verb of the engine, under the name of whoever filled in the form."""

from airflow.sdk import Context
from dvc_operator import EngineOperator


class RollbackOperator(EngineOperator):
    """``python -m nightshift.engine rollback``: what the form says, as arguments and never through a shell."""

    def _arguments(self, context: Context) -> list[str]:
        form, run = context["params"], context["dag_run"]
        arguments = [self.verb, form["model"], f"--reason={form['reason']}", f"--run={run.run_id}"]
        arguments += [f"--who={run.triggering_user_name or 'Airflow'}"]
        return arguments + ([f"--to={form['to']}"] if form["to"] else [])
