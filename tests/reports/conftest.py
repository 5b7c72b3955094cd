from made_reports import make_report as make_report
from made_reports import report as report
