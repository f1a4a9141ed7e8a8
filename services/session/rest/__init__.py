"""Session over HTTP: what the web app in a browser calls. JSON in snake_case, times RFC 3339, problems RFC 9457.

    /  /static/*                          the app's files
    /auth/login|callback|reauthenticate   sign-in at identity; browsers are sent here, scripts are not
    /auth/logout                          POST: out of here and of identity
    /auth/backchannel-logout              POST, from identity: a login session has ended
    /api/me  /api/sessions  /api/apps     the person, their sessions, their apps
    /api/products  /api/orders            the shop; /api/admin/orders for its back office
    /api/notifications  /api/live         the inbox, and what is new as it comes (SSE)
    /api/notification-preferences
    /api/lab                              what is where: the cookie, the session, the decoded tokens
    /api/control/*                        the control room (identity:admin)

The browser's only credential is the cookie. What changes something needs the header `X-Rescind-Request: 1` and must
come from this origin (`protection`). No answer holds a token, the session's secret, or anything made of either.
"""
