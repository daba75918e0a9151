from workers.notification import mail_texts
from workers.notification.messages import Allocated, OutOfStock


def test_the_stock_team_hears_of_a_line_that_waits() -> None:
    mail = mail_texts.out_of_stock(OutOfStock("o1", "LAMP", 3))

    assert (mail.team, mail.subject) == ("stock", "Out of stock: 3 x LAMP for order o1")


def test_the_orders_team_hears_of_a_line_that_moved() -> None:
    mail = mail_texts.moved(Allocated("o1", "LAMP", 3, "b2"), {"b1": 3}, waiting=0)

    assert (mail.team, mail.subject) == ("orders", "Order o1 moved to batch b2")
    assert "b1" in mail.text


def test_a_line_that_does_not_move_as_a_whole_is_mailed_with_the_pieces_that_do() -> None:
    message = Allocated("o1", "LAMP", 3, "b2")

    mails = [
        mail_texts.moved(message, {"b1": 3}, waiting=1),
        mail_texts.moved(message, {"b1": 2}, waiting=0),
    ]

    assert [mail.subject for mail in mails] == [
        "Order o1: 3 of the pieces moved to batch b2",
        "Order o1: 2 of the pieces moved to batch b2",
    ]


def test_the_stock_team_hears_how_many_pieces_still_wait() -> None:
    mail = mail_texts.still_out_of_stock(
        Allocated("o1", "LAMP", 3, "b2", part=1, waiting=4), served=2
    )

    assert mail == mail_texts.Mail(
        "stock",
        "Still out of stock: 4 x LAMP for order o1",
        "The batch b2 serves 2 x LAMP that the order o1 waited for.\nStill waiting: 4 x LAMP.\n",
    )
