-- What makes a repeated request of a server recognisable, and the first spelling of each event name.

create table receipts (
    site_id bigint not null,
    receipt text not null,
    at      bigint not null,
    primary key (site_id, receipt)
);
create index receipts_by_time on receipts (site_id, at);

create table event_names (
    site_id bigint not null,
    folded  text not null,
    name    text not null,
    primary key (site_id, folded)
);
