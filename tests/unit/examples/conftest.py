"""Makes the example importable, and a small file of flights."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
if str(ROOT) not in sys.path:  # at the end: nothing of ours may hide a library
    sys.path.append(str(ROOT))

TEN_ROWS = """\
month,day,sched_dep_time,dep_delay,arr_delay,carrier,flight,tailnum,origin,dest,distance,time_hour
1,2,600,0,5,UA,11,N1,EWR,ORD,700,2013-01-02T11:00:00Z
1,1,900,10,20,UA,12,N1,EWR,LAX,2400,2013-01-01T14:00:00Z
1,1,800,-3,-8,AA,20,N2,JFK,LAX,2475,2013-01-01T13:00:00Z
1,1,800,1,2,DL,30,N3,LGA,ATL,760,2013-01-01T13:00:00Z
1,1,1000,NA,NA,UA,13,N1,LGA,ORD,730,2013-01-01T15:00:00Z
1,3,600,4,NA,AA,21,N2,JFK,BOS,187,2013-01-03T11:00:00Z
1,1,700,NA,NA,9E,40,NA,JFK,BUF,301,2013-01-01T12:00:00Z
1,1,700,NA,NA,9E,41,,LGA,BUF,292,2013-01-01T12:00:00Z
1,4,600,7,9,UA,14,N1,EWR,JFK,20,2013-01-04T11:00:00Z
1,4,559,-1,0,DL,31,N3,LGA,ATL,760,2013-01-04T10:00:00Z
"""


@pytest.fixture
def ten_rows(tmp_path: Path) -> Path:
    """A zip as the package has it, with ten rows in an order of its own."""
    path = tmp_path / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", TEN_ROWS)
    return path
