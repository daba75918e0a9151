import time
def test_x(celery_setup):
    w=celery_setup.worker
    t=time.time(); w.container.process.stop(); print("stop", time.time()-t)
    print(w.logs())
