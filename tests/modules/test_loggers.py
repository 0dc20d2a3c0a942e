from apo.modules.loggers import MetricsCSV


def test_new_columns_keep_old_rows(tmp_path):
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"b": 2.0, "a": 3.0}, 1)
    assert logger.read() == [{"step": "0", "a": "1.0", "b": ""}, {"step": "1", "a": "3.0", "b": "2.0"}]


def test_what_comes_later_for_a_step_joins_its_row(tmp_path):
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"a": 1.0}, 0)
    logger.log_metrics({"a": 2.0}, 1)
    logger.log_metrics({"val": 3.0}, 1)
    logger.log_metrics({"a": 4.0}, 2)
    assert [tuple(row.values()) for row in logger.read()] == [("0", "1.0", ""), ("1", "2.0", "3.0"), ("2", "4.0", "")]


def test_rewind_forgets_the_steps_to_be_taken_again(tmp_path):
    logger = MetricsCSV(str(tmp_path))
    for step in range(5):
        logger.log_metrics({"a": step * 1.0}, step)
    with logger.path.open("a") as file:
        file.write("5,")  # a kill in the middle of a row
    resumed = MetricsCSV(str(tmp_path))
    resumed.rewind(3)
    resumed.log_metrics({"a": 30.0}, 3)
    assert [(row["step"], row["a"]) for row in resumed.read()] == [
        ("0", "0.0"),
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "30.0"),
    ]
